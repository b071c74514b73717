import torch
import torch.nn.functional as F

from laconic import data, zoo


def test_digits_cnn_learns_the_digits_in_seconds():
    torch.manual_seed(0)
    digits = data.load("digits")
    model = zoo.load("digits_cnn?width=24").train()
    optimizer = torch.optim.AdamW(model.parameters(), 4e-3)
    for _ in range(8):
        for indices in torch.randperm(len(digits.train)).split(64)[:20]:
            images, labels = digits.train.batch(indices.numpy())
            F.cross_entropy(model(images), labels).backward()
            optimizer.step()
            optimizer.zero_grad()
    images, labels = digits.test.batch(slice(None))
    with torch.no_grad():
        assert (model.eval()(images).argmax(1) == labels).float().mean() > 0.95
