"""Export and load: a program to a file, a file to a callable on arrays."""

import subprocess
import sys

import numpy as np
import pytest
import torch

import laconic
from laconic.job import Origin, prepare
from test_cli import user_file


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    mine = user_file(tmp_path_factory.mktemp("user"))
    return prepare(Origin(f"{mine}:model", f"{mine}:data"), 1)


@pytest.fixture(scope="module")
def exported(job, tmp_path_factory):
    path = tmp_path_factory.mktemp("verbs") / "model.onnx"
    laconic.export(job.program, path)
    return path


def test_a_loaded_file_computes_what_the_program_computes_at_any_batch(job, exported):
    network = laconic.load(exported)
    for batch in (1, 3, 90):
        inputs = job.splits.test.arrays(slice(0, batch))
        np.testing.assert_allclose(network(inputs), job.program(torch.from_numpy(inputs)).detach(), atol=1e-4)


def test_export_refuses_another_suffix(job, tmp_path):
    with pytest.raises(laconic.LaconicError, match=r"writes \.onnx files"):
        laconic.export(job.program, tmp_path / "model.tflite")


def test_load_refuses_what_is_no_network(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"nothing of the kind")
    for name, words in (("model.onnx", "damaged or not a network"), ("none.onnx", "no network"), ("model.bin", "no runtime reads")):
        with pytest.raises(laconic.LaconicError, match=words):
            laconic.load(tmp_path / name)


def test_loading_a_file_does_not_import_torch(exported):
    code = f"import sys, laconic; laconic.load({str(exported)!r}); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
