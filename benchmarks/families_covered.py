"""Coverage of structured pruning: half the channels of every group cut, on every network of a list, with no help for any of them.

    python benchmarks/families_covered.py --models models.json --json coverage.json [--only NAME ...] [--timeout 180]
                                   [--torch-pruning PYTHON]

The list holds `{"model": timm name, "input": [batch, channels, height, width], ...}`. Each network has a process of its own. A network
is *pruned* when it was captured, its groups were found and halved, the result runs with the same output shape, trains a step, has at
most 60 % of the MACs, equals zeroing (exact groups), and is saved, loaded in a fresh process and exported to ONNX with equal outputs
there; *partial* when it lost fewer MACs than that or a later check failed; *failed* otherwise. Needs timm in the environment.

`--torch-pruning` names the Python of another environment that has torch, timm and torch-pruning; it prunes the same networks there, out of
the box (magnitude, half of every group, the classifier left alone), in a process each. Theirs is *pruned* when the result runs with the
same output shape, trains a step and has at most 60 % of the MACs; it makes no promise of equal outputs, so none is checked.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def main() -> None:
    """Run the list, or one network of it in this process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--timeout", type=float, default=180)
    parser.add_argument("--torch-pruning", help="Python of an environment with torch, timm and torch-pruning")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--theirs", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    listed = json.loads(arguments.models.read_text())
    if arguments.one:
        [entry] = [entry for entry in listed if entry["model"] == arguments.one]
        arguments.json.write_text(json.dumps(examine(entry, prune_with_torch_pruning if arguments.theirs else check)))
        return
    rows = [in_process(entry, arguments) for entry in listed if not arguments.only or entry["model"] in arguments.only]
    arguments.json.write_text(json.dumps(rows, indent=1))
    pruned = sum(row["status"] == "pruned" for row in rows)
    column = "torch_pruning" if arguments.torch_pruning else "torch_pruning_1_6_1"
    theirs = sum(row[column] == "pruned" for row in rows)
    print(f"pruned {pruned} of {len(rows)} ({pruned / len(rows):.1%}); torch-pruning: {theirs} of {len(rows)}")


def in_process(entry: dict[str, Any], arguments: argparse.Namespace) -> dict[str, Any]:
    """Examine one network in a process of its own, within the time limit; and in one of torch-pruning's, where there is one."""
    row = examined(entry, arguments, sys.executable)
    row["torch_pruning_1_6_1"] = entry.get("torch_pruning_1_6_1")
    if arguments.torch_pruning:
        theirs = examined(entry, arguments, arguments.torch_pruning, "--theirs")
        row |= {"torch_pruning": theirs["status"], "torch_pruning_reason": theirs["reason"], "torch_pruning_macs": theirs["macs_ratio"]}
    result = f"{row['macs_ratio'] or 0:.2f} of the MACs, exact {row['exact_ok']}, {row['seconds']:.0f} s"
    print(f"{row['model']:40} {row['status']:8} {row.get('torch_pruning', ''):8} {result}  {row['reason'][:150]}", flush=True)
    return row


def examined(entry: dict[str, Any], arguments: argparse.Namespace, python: str, *more: str) -> dict[str, Any]:
    """Run this script on one network with some Python; returns the row that it wrote."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "row.json"
        command = [python, __file__, "--models", str(arguments.models), "--json", str(out), "--one", entry["model"], *more]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=arguments.timeout, check=False)
        except subprocess.TimeoutExpired:
            return failure(entry, f"timeout after {arguments.timeout:g} s")
        if out.is_file():
            row: dict[str, Any] = json.loads(out.read_text())
            return row
        return failure(entry, (done.stderr.strip().splitlines() or ["no output"])[-1])


def failure(entry: dict[str, Any], reason: str) -> dict[str, Any]:
    """Describe a network that got nowhere."""
    return {"model": entry["model"], "status": "failed", "macs_ratio": None, "exact_ok": None, "reason": reason, "seconds": 0.0}


def examine(entry: dict[str, Any], how: Callable[[Any, Any, dict[str, Any]], None]) -> dict[str, Any]:
    """Do everything to one network; the first thing that goes wrong is the reason."""
    import torch

    from laconic.zoo.timm import mend_torchvision

    mend_torchvision()
    import timm

    torch.manual_seed(0)
    torch.set_num_threads(1)
    start, row = time.perf_counter(), failure(entry, "")
    settings = {"img_size": tuple(entry["input"][-2:])} if takes_size(entry) else {}
    example = torch.randn(entry["input"])
    try:
        how(timm.create_model(entry["model"], pretrained=False, **settings), example, row)
    except Exception as error:  # the reason is the result
        row["reason"] = row["reason"] or f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    row["seconds"] = round(time.perf_counter() - start, 1)
    return row


def takes_size(entry: dict[str, Any]) -> bool:
    """Say whether the network must be told its input size: it is not made for the listed one."""
    import timm

    try:
        default = timm.get_pretrained_cfg(entry["model"])
        model = timm.create_model(entry["model"], pretrained=False)
        import torch

        with torch.no_grad():
            model.eval()(torch.randn(entry["input"]))
    except Exception:  # it refuses the size as it is
        return default is not None
    return False


def check(model: Any, example: Any, row: dict[str, Any]) -> None:
    """Fill in the row; its status goes up with every check that holds."""
    import torch

    from laconic.measure import macs
    from laconic.program import capture, clone, load, save
    from laconic.program.cut import cut
    from laconic.program.groups import find
    from laconic.program.zero import zero
    from laconic.runtimes import onnxruntime

    inputs = (example,)
    for module in model.modules():  # statistics and scales that differ from channel to channel
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    program = capture(model, inputs)
    found = find(program)
    keep = {group.name: list(range(0, group.channels, 2)) for group in found.groups}
    exact = {group.name: keep[group.name] for group in found.groups if group.exact}
    with torch.no_grad():
        zeroed, small = zero(clone(program), exact)(*inputs), cut(clone(program), exact)(*inputs)
        shape = program(*inputs).shape
    row["exact_ok"] = bool(torch.allclose(zeroed, small, rtol=1e-3, atol=1e-4 * float(zeroed.abs().max())))
    reasons = sorted({frozen.reason for frozen in found.frozen if not any(word in frozen.reason for word in ("kernel", "output", "input"))})
    before = macs(program, inputs)
    cut(program, keep)
    with torch.no_grad():
        assert program(*inputs).shape == shape, "the output has another shape"
    row["macs_ratio"] = round(macs(program, inputs) / before, 4)
    row["status"], row["reason"] = "partial", "; ".join(reasons)[:500] if row["macs_ratio"] > 0.6 else ""
    train_a_step(program, example)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "program.safetensors"
        save(program, path)
        torch.save(program(*inputs).detach(), Path(folder) / "expected.pt")
        torch.save(example, Path(folder) / "example.pt")
        code = (
            "import sys, torch; from pathlib import Path; from laconic.program import load; f = Path(sys.argv[1]); "
            "p = load(f / 'program.safetensors'); y = p(torch.load(f / 'example.pt')); "
            "assert torch.allclose(y, torch.load(f / 'expected.pt'), atol=1e-5), 'loaded program differs'"
        )
        subprocess.run([sys.executable, "-c", code, folder], check=True, capture_output=True)
        onnxruntime.export(load(path), inputs, Path(folder) / "model.onnx")
    if row["macs_ratio"] <= 0.6 and row["exact_ok"]:
        row["status"] = "pruned"
    elif not row["exact_ok"]:
        row["reason"] = "exact groups do not equal zeroing; " + row["reason"]


def train_a_step(network: Any, example: Any) -> None:
    """Take one step in train mode, and check what came out before and after it; the network is in eval mode then."""
    import torch

    network.train()
    for _ in range(2):
        output = network(example)
        assert torch.isfinite(output).all(), "the outputs in train mode are not finite numbers"
        network.zero_grad()
        output.square().mean().backward()
        assert any(parameter.grad is not None for parameter in network.parameters()), "no gradient"
        torch.optim.SGD(network.parameters(), 1e-6).step()
    network.eval()


def prune_with_torch_pruning(model: Any, example: Any, row: dict[str, Any]) -> None:
    """Fill in the row with what torch-pruning makes of a network as it comes."""
    import torch
    import torch_pruning

    model.eval()
    classifier = model.get_classifier()
    ignored = [layer for layer in (classifier if isinstance(classifier, tuple) else (classifier,)) if isinstance(layer, torch.nn.Module)]
    with torch.no_grad():
        shape = model(example).shape
    before, _ = torch_pruning.utils.count_ops_and_params(model, example)
    importance = torch_pruning.importance.MagnitudeImportance(p=2)
    torch_pruning.pruner.MagnitudePruner(model, example, importance=importance, pruning_ratio=0.5, ignored_layers=ignored).step()
    with torch.no_grad():
        assert model(example).shape == shape, "the output has another shape"
    after, _ = torch_pruning.utils.count_ops_and_params(model, example)
    row["macs_ratio"] = round(after / before, 4)
    row["status"], row["reason"] = "partial", "more than 60 % of the MACs are left" if row["macs_ratio"] > 0.6 else ""
    train_a_step(model, example)
    if row["macs_ratio"] <= 0.6:
        row["status"] = "pruned"


if __name__ == "__main__":
    main()
