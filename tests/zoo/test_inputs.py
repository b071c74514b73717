import pytest
import torch
from torch import nn

from laconic.errors import LaconicError
from laconic.zoo import example
from laconic.zoo.inputs import read_inputs


def test_what_the_user_writes_comes_before_what_is_known():
    [tensor] = example("zoo:resnet20", nn.Identity(), "3x40x48", batch=5)
    assert tensor.shape == (5, 3, 40, 48)


def test_whole_numbers_are_zeros_and_others_are_the_same_in_every_run():
    tokens, mask, sounds = example("mine.py:model", nn.Identity(), "7:int64,7:bool,2x9")
    assert (tokens.dtype, mask.dtype, sounds.dtype) == (torch.int64, torch.bool, torch.float32)
    assert not tokens.any()
    assert not mask.any()
    assert torch.equal(sounds, example("mine.py:model", nn.Identity(), "7:int64,7:bool,2x9")[2])


def test_a_network_of_timm_says_what_it_takes_itself():
    model = nn.Identity()
    model.pretrained_cfg = {"input_size": (3, 224, 224)}
    assert example("mine.py:model", model)[0].shape == (2, 3, 224, 224)
    model.patch_embed = nn.Identity()
    model.patch_embed.img_size = (32, 48)
    assert example("mine.py:model", model)[0].shape == (2, 3, 32, 48)


def test_unknown_inputs_are_asked_for():
    with pytest.raises(LaconicError, match=r"inputs of mine.py:model are not known: give --input .*--data"):
        example("mine.py:model", nn.Identity())


@pytest.mark.parametrize("text", ["", "3x", "x3", "3x0", "3,", "3:text", "3x4:int64:int64", "-3"])
def test_a_shape_that_is_none_is_told_with_what_is_possible(text):
    with pytest.raises(LaconicError, match=r"--input is written as .*3x224x224 or 128:int64.*float32, float16, int64, int32, bool"):
        read_inputs(text)
