"""A network whose operations are put together while it trains, so that what lies between convolutions is read and written once.

Compiling takes a minute or more, and its kernels round otherwise in the last bits: bfloat16 values on the way stay in float32.
"""

import os
import shutil
from typing import Any

import torch
from torch import nn

from laconic.errors import LaconicError

_COMPILERS = ("c++", "g++", "clang++", "cl")


class Fused:
    """Calls a module through what `torch.compile` made of it."""

    def __init__(self, model: nn.Module) -> None:
        """Take a module; it is compiled when it is first called.

        Raises:
            LaconicError: there is no C++ compiler.
        """
        if not any(shutil.which(each) for each in (os.environ.get("CXX") or "c++", *_COMPILERS)):
            raise LaconicError("to compile a network for training takes a C++ compiler, g++ or clang++, and none was found; leave it out")
        self._model, self._called = model, torch.compile(model, dynamic=False)

    def __call__(self, *inputs: Any) -> Any:
        """Compute what the module does.

        Raises:
            LaconicError: it cannot be compiled.
        """
        from torch._dynamo.exc import TorchDynamoException

        try:
            return self._called(*inputs)
        except TorchDynamoException as error:
            reason = str(error).strip().splitlines()[0]
            raise LaconicError(f"the network could not be compiled for training ({reason}); train it without") from error

    def __getattr__(self, name: str) -> Any:
        """Return what the module has under that name."""
        return getattr(self._model, name)
