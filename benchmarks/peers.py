"""One peer's post-training quantization of an ONNX file: run by `quantization.py --peers PYTHON` with the interpreter of their environment.

    PYTHON benchmarks/peers.py PEER FLOAT.onnx CALIBRATION.npy OUT.onnx

That environment holds `nncf`, `onnx` and `onnxruntime`, and nothing of Laconic: a peer gets the float network as we export it and
the calibration images that we use, and writes a file for the same runtime. Settings are the peers' own for this use: their documentation's
advice where there is any, else their defaults.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def _input_name(network: Path) -> str:
    import onnx

    return str(onnx.load(network).graph.input[0].name)


def onnxruntime_static(network: Path, images: Any, out: Path, per_channel: bool) -> None:
    """`quantize_static` with min-max ranges, u8 activations and s8 weights, after its own preprocessing."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.rows = iter(images)

        def get_next(self) -> dict[str, Any] | None:
            row = next(self.rows, None)
            return None if row is None else {_input_name(network): row[None]}

    prepared = out.with_suffix(".prepared.onnx")
    quant_pre_process(network, prepared, skip_symbolic_shape=True)
    quantize_static(
        prepared,
        out,
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=per_channel,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )


def nncf(network: Path, images: Any, out: Path, accurate: bool) -> None:
    """`nncf.quantize` on all images, with fast or accurate bias correction."""
    import nncf
    import onnx

    name = _input_name(network)
    data = nncf.Dataset([{name: row[None]} for row in images])
    model = nncf.quantize(onnx.load(network), data, subset_size=len(images), fast_bias_correction=not accurate)
    onnx.save(model, out)


PEERS: dict[str, Callable[[Path, Any, Path], None]] = {
    "onnxruntime, per channel": lambda network, images, out: onnxruntime_static(network, images, out, per_channel=True),
    "onnxruntime, per tensor": lambda network, images, out: onnxruntime_static(network, images, out, per_channel=False),
    "nncf, default": lambda network, images, out: nncf(network, images, out, accurate=False),
    "nncf, accurate bias correction": lambda network, images, out: nncf(network, images, out, accurate=True),
}

if __name__ == "__main__":
    import numpy as np

    peer, network, images, out = sys.argv[1:]
    PEERS[peer](Path(network), np.load(images), Path(out))
