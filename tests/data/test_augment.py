import torch

from laconic.data import CropFlip


def changed(batch, seed=0, padding=2):
    return CropFlip(padding)(batch, torch.Generator().manual_seed(seed))


def test_every_image_is_a_shifted_window_of_itself_or_of_its_mirror_image():
    batch = torch.rand(64, 3, 6, 5, generator=torch.Generator().manual_seed(1))
    padded = torch.nn.functional.pad(batch, (2, 2, 2, 2))
    seen = set()
    for index, image in enumerate(changed(batch)):
        windows = {(t, s): padded[index, :, t : t + 6, s : s + 5] for t in range(5) for s in range(5)}
        hits = [
            (place, flip) for place, window in windows.items() for flip in (0, 1) if torch.equal(image, window.flip(2) if flip else window)
        ]
        assert len(hits) == 1
        seen.update(hits)
    assert {flip for _, flip in seen} == {0, 1}
    assert len({place for place, _ in seen}) > 15  # of 25


def test_only_the_generator_decides():
    batch = torch.rand(8, 1, 4, 4)
    original = batch.clone()
    first = changed(batch, seed=3)
    torch.rand(5)  # another state of the global generator
    assert torch.equal(first, changed(batch, seed=3))
    assert not torch.equal(first, changed(batch, seed=4))
    assert torch.equal(batch, original)


def test_without_flip_images_are_shifted_only_and_the_border_goes_on_outside():
    images = torch.full((20, 1, 6, 6), -0.5)
    images[:, :, 2, 1] = 3.0
    shifted = CropFlip(padding=1, flip=False, border="replicate")(images, torch.Generator().manual_seed(0))
    places = {tuple(divmod(int(image.argmax()), 6)) for image in shifted}
    assert places == {(row, column) for row in (1, 2, 3) for column in (0, 1, 2)}
    assert ((shifted == -0.5).sum((1, 2, 3)) == 35).all()
