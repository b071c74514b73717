import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.export import Dim, export

from laconic.errors import LaconicError
from laconic.zoo import MODELS, example, load
from laconic.zoo.inputs import SHAPES

TRIED = [*MODELS, "digits_cnn?width=6", "zoo:resnet20?shortcut=padding"]
PARAMETERS = {  # of the papers, Caffe's prototxt, or counted by hand
    "lenet300": 784 * 300 + 300 + 300 * 100 + 100 + 100 * 10 + 10,
    "lenet5": 431_080,
    "zoo:resnet20?shortcut=padding": 269_722,
    "zoo:resnet56?shortcut=padding": 853_018,
    "mobilenet_v2": 3_489_097,
    "digits_cnn": 306_122,
    "recursive": 9 * 16**2,
    "vgg": 9 * (3 * 32 + 32 * 32 + 32 * 64 + 64**2 + 64 * 128 + 128**2) + 2 * 448 + 2049 * 1024 + 1025 * 1034,
    "recursive?width=12": 9 * 12**2,
}
PAPERS = (
    "CVPR 2016",
    "CVPR 2018",
    "1998",
    "ICLR 2014",
    "EMNLP 2019",
    "GPT-2, 2019",
    "Llama 2, 2023",
    "Interspeech 2017",
    "EMNLP 2014",
    "MICCAI 2015",
    "ICCV 2019",
    "ICLR 2015",
)


def test_every_model_says_what_it_takes():
    assert set(SHAPES) == set(MODELS)


@pytest.mark.filterwarnings("ignore:The tensor attributes:UserWarning")  # torch.export's, of recurrent layers
@pytest.mark.parametrize("name", TRIED)
def test_every_model_is_captured_with_a_dynamic_batch(name):
    torch.manual_seed(0)
    model = load(name)
    inputs = example(name, model)
    program = export(model, inputs, dynamic_shapes=({0: Dim("batch")},)).module()
    [batch] = example(name, model, batch=3)
    with torch.no_grad():
        assert torch.allclose(program(batch), model(batch), atol=1e-5)


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_model_has_as_many_parameters_as_published(name):
    assert sum(parameter.numel() for parameter in load(name).parameters()) == PARAMETERS[name]


@pytest.mark.parametrize("name", MODELS)
def test_every_factory_cites_its_paper(name):
    assert any(paper in MODELS[name].__doc__ for paper in PAPERS)


@pytest.mark.parametrize("shortcut", ["padding", "projection"])
def test_resnet_takes_the_shortcuts_of_its_weights(tmp_path, shortcut):
    published = load(f"resnet20?shortcut={shortcut}")
    save_file(published.state_dict(), tmp_path / "weights.safetensors")
    model = load("resnet20", tmp_path / "weights.safetensors")
    assert model.state_dict().keys() == published.state_dict().keys()
    assert torch.equal(model.layer3[2].conv2.weight, published.layer3[2].conv2.weight)


@pytest.mark.parametrize("spec", ["resnet20", "torch.nn:Identity"])
def test_a_network_comes_in_eval_mode(spec):
    """So that scoring it does not move its batch norm's statistics."""
    assert not any(module.training for module in load(spec).modules())


OWN = """
import torch

def good(outputs: int = 3):
    return torch.nn.Linear(2, outputs)

def wrong():
    return good().state_dict()

def fails():
    return torch.nn.Linear(2)
"""


def test_the_users_function_is_called(tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    assert isinstance(load(f"{tmp_path}/own.py:good"), nn.Linear)
    assert load(f"{tmp_path}/own.py:good?outputs=7").out_features == 7
    assert isinstance(load("torch.nn:Identity"), nn.Identity)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("OWN:wrong", "must return a torch.nn.Module; it returned a OrderedDict"),
        ("OWN:fails", r"failed at .*own.py:11: TypeError: .*out_features"),
        ("OWN:god", "did you mean 'good'"),
        ("zoo:resnet2", "unknown model 'resnet2'; did you mean 'resnet20'.* FILE.py:FUNCTION"),
        ("resnet20?shortcut=zeros", "'projection' or 'padding'; its options: shortcut"),
        ("digits_cnn?width=0", "greater than 0"),
        ("lenet5?width=3", "lenet5 has no options"),
    ],
)
def test_what_cannot_be_built_is_told(tmp_path, spec, message):
    (tmp_path / "own.py").write_text(OWN)
    with pytest.raises(LaconicError, match=message):
        load(spec.replace("OWN", f"{tmp_path}/own.py"))
