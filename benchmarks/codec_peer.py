"""Code arrays with NNCodec, in an environment of its own: run by `codec.py`.

    PYTHON benchmarks/codec_peer.py ARRAYS.npz OUT_FOLDER QP...

For each quantization parameter it writes `QP.npz`, what was decoded, and prints one line of JSON. Settings are the peer's own for whole
networks: uniform reconstruction, dependent (trellis-coded) quantization, its parameter optimization and row skipping on.
"""

import contextlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any


def coded(arrays: dict[str, Any], qp: int) -> tuple[bytes, dict[str, Any], float, float]:
    """Return the bitstream, what it is decoded to, and the seconds of both."""
    from nncodec import nn

    began = time.perf_counter()
    stream = nn.encode(dict(arrays), args={"qp": qp, "use_dq": True, "verbose": False, "wandb": False})
    encode, decode = time.perf_counter() - began, float("inf")
    for _ in range(5):
        began = time.perf_counter()
        found = nn.decode(stream)
        decode = min(decode, time.perf_counter() - began)
    return stream, found, encode, decode


def main() -> None:
    """Code at each parameter."""
    import numpy as np

    arrays = dict(np.load(sys.argv[1]))
    folder = Path(sys.argv[2]).resolve()
    os.chdir(folder)
    for qp in map(int, sys.argv[3:]):
        with contextlib.redirect_stdout(sys.stderr):
            stream, found, encode, decode = coded(arrays, qp)
        np.savez(folder / f"{qp}.npz", **{name: np.asarray(array) for name, array in found.items()})
        print(json.dumps({"qp": qp, "bytes": len(stream), "encode_seconds": encode, "decode_seconds": decode}), flush=True)


if __name__ == "__main__":
    main()
