"""Mixed precision against one width for all, on the exported files, at the same packed bytes.

    python benchmarks/mixed.py [resnet20 mobilenet_v2 mobilenet_v2-twin]

Run it from the repository's root; it needs LACONIC_DATA. Networks, calibration images and measures are those of `quantization.py`. The
uniform network has 8 bits at its ends and the given width elsewhere; the mixed one may not have more packed bytes than it. Weights have
the widths, activations 8 bits. Widths are chosen on calibration images; scores are of the test split.
"""

import sys
from statistics import mean
from typing import Any

from quantization import SEEDS, measured, settings

WIDTHS = {"resnet": (4, 3), "mobilenet": (4,)}


def uniform(width: int) -> Any:
    """Return the step that gives all layers but the ends one width."""
    from laconic.quantize import Static

    return lambda packed: Static(**settings(width, 8))


def mixed(sensitivity: str) -> Any:
    """Return the step for at most the packed bytes of the uniform network."""
    from laconic.quantize import Mixed

    return lambda packed: Mixed(bytes=packed, sensitivity=sensitivity)


def main(networks: list[str]) -> None:
    """Print a row for each network, width and choice: means over seeds."""
    for network in networks:
        is_cifar = network.startswith("resnet")
        for width in WIDTHS["resnet" if is_cifar else "mobilenet"]:
            packed = dict.fromkeys(SEEDS, 0)
            for name, step in {"uniform": uniform(width), "noise": mixed("noise"), "curvature": mixed("curvature")}.items():
                rows = {seed: measured(network, seed, step(packed[seed])) for seed in (SEEDS if is_cifar else [0])}
                if name == "uniform":
                    packed |= {seed: int(row["packed"]) for seed, row in rows.items()}
                average = {key: mean(row[key] for row in rows.values()) for key in rows[0]}
                print(
                    f"{network}, {width} bits, {name}: {average['accuracy']:.2f} % (float {average['float']:.2f} %), agreement "
                    f"{average['agreement']:.1f} %, {average['decibels']:.1f} dB, {average['packed']:,.0f} bytes packed, "
                    f"{average['bytes']:,.0f} in the ONNX file, {average['seconds']:.0f} s, seeds {len(rows)}",
                    flush=True,
                )


if __name__ == "__main__":
    main(sys.argv[1:] or ["resnet20", "mobilenet_v2", "mobilenet_v2-twin"])
