"""What a run works on: the user's network, data and folder, all checked before any work starts."""

import os
import platform
import sysconfig
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor, nn

from laconic import data, zoo
from laconic.against import Against, against_network
from laconic.context import Context
from laconic.contract import fingerprint
from laconic.data import Dataset, Splits
from laconic.errors import LaconicError
from laconic.measure import NO_METER, meter
from laconic.measure.accuracy import check_maps
from laconic.pack.network import read_program
from laconic.program import Program, capture, first_output, load, only_in_training
from laconic.race import profile, race
from laconic.store import Store, writable
from laconic.train import classes_last
from laconic.version import __version__

_DATA, _PACKAGES = "$LACONIC_DATA", "$PACKAGES"  # what paths on a receipt begin with


@dataclass(frozen=True)
class Origin:
    """Where a network and its data come from, as the user wrote it."""

    model: str  # zoo:NAME, file.py:factory, package.module:factory, or a saved or packed program
    data: str
    weights: Path | None = None
    data_root: Path | None = None
    seed: int = 0
    against: Against = "labels"  # what outputs are scored against


@dataclass(frozen=True)
class Job:
    """A captured network with its data, ready to be compressed and measured."""

    origin: Origin
    program: Program  # the network as it came
    dataset: Dataset
    context: Context
    threads: int
    model_hash: str
    data_hash: str
    not_captured: tuple[str, ...] = ()  # what the network does only while training, in words
    trained: str = ""  # how it was trained, where that was done for this run

    @property
    def splits(self) -> Splits:
        """The parts of the data."""
        return self.context.splits


def prepare(origin: Origin, threads: int, trained: bool = True, runtime: str = "onnxruntime", compiled: bool = False) -> Job:
    """Load and check everything a run needs.

    Args:
        origin: the network and the data.
        threads: of the runtime in every measurement.
        trained: whether a zoo network without weights is a mistake.
        runtime: what steps that look at latency are timed in.
        compiled: whether networks are compiled for training.

    Raises:
        LaconicError: what could not work later: unknown names, missing files, damaged weights, labels out of range, a model that
        cannot be captured.
    """
    torch.manual_seed(origin.seed)
    dataset = data.load(origin.data, origin.data_root)
    context = Context(data.split(dataset, origin.seed), seed=origin.seed, compiled=compiled)
    context = replace(
        context,
        latency=race(context.example(), runtime, threads),
        layer_seconds=profile(context.example(), runtime, threads),
    )
    program, not_captured = load_program(origin, context, trained)
    check_outputs(program, context, labelled=origin.against == "labels")
    if origin.against == "network":
        context = replace(context, splits=against_network(context.splits, program))
    return Job(origin, program, dataset, context, threads, fingerprint(program), data.fingerprint(dataset), tuple(not_captured))


def load_program(origin: Origin, context: Context | None, trained: bool = True) -> tuple[Program, list[str]]:
    """Return the network as a program (a saved one as it is, any other captured on real inputs), and what was not captured."""
    if origin.model.endswith(".safetensors"):
        return load(Path(origin.model)), []
    if origin.model.endswith(".lac"):
        return read_program(Path(origin.model)), []
    name = origin.model.removeprefix("zoo:").partition("?")[0]
    if trained and origin.weights is None and name in zoo.MODELS:
        raise LaconicError(
            f"{origin.model} is untrained without weights; give --weights FILE (.safetensors or .pt), or train it with `laconic train`"
        )
    assert context is not None, "only a saved program needs no example inputs"
    model = zoo.load(origin.model, origin.weights)
    check_finite(model)
    example = context.example()
    try:
        return capture(model, example), only_in_training(model)
    except LaconicError as error:
        raise LaconicError(f"{error}. The data gives {_in_words(example[0])}") from error


def _in_words(batch: Tensor) -> str:
    whole = "" if batch.is_floating_point() else "; whole numbers wider than a byte, without mean and std, are taken for token ids"
    return f"{str(batch.dtype).removeprefix('torch.')} inputs of shape {tuple(batch.shape[1:])}{whole}"


def check_finite(model: nn.Module) -> None:
    """Find weights that are no numbers before they spoil every result.

    Raises:
        LaconicError: names the first such tensor and how many of its entries are bad.
    """
    for name, tensor in model.state_dict().items():
        bad = 0 if not tensor.is_floating_point() else int((~torch.isfinite(tensor)).sum())
        if bad:
            raise LaconicError(
                f"the weight {name!r} has {bad} entries of {tensor.numel()} that are NaN or infinite; the network cannot be used as it is"
            )


def check_outputs(program: Program, context: Context, labelled: bool = True) -> None:
    """Run the network on real inputs and, where outputs are scored against labels, compare its classes with them.

    Raises:
        LaconicError: the inputs do not fit, the output is not one row of finite scores per label, or a label or token is out of range.
    """
    example = context.example()
    wanted, came = [entry.shape for entry in program.inputs], [tuple(tensor.shape[1:]) for tensor in example]
    if wanted != came:
        raise LaconicError(f"the network takes inputs of shape {wanted[0]}, the data has {came[0]}; choose data or a size option that fits")
    types = [entry.dtype for entry in program.inputs]
    if any(dtype.is_floating_point != tensor.is_floating_point() for dtype, tensor in zip(types, example, strict=True)):
        raise LaconicError(f"the network takes {str(types[0]).removeprefix('torch.')} inputs; the data gives {_in_words(example[0])}")
    if (known := vocabulary(program)) is not None:
        data.check_tokens(context.splits, known)
    try:
        with torch.no_grad():
            output = program(*example)
    except RuntimeError as error:  # capturing looks at shapes, not always at types
        raise LaconicError(f"the network does not run: {error}. The data gives {_in_words(example[0])}") from error
    logits = first_output(output)
    labels = context.splits.calibration.labels
    if labelled and labels.ndim > 2:
        check_maps(tuple(logits.shape), labels[:2])
    rows = (2, *labels.shape[1:])
    if labelled and labels.ndim <= 2 and logits.shape[:-1] != rows:
        per = "position" if len(rows) > 1 else "example"
        raise LaconicError(f"the network must return one row of class scores per {per}; 2 examples gave shape {tuple(logits.shape)}")
    if not torch.isfinite(logits).all():
        raise LaconicError("the network returns NaN or infinite scores on the data; check the weights and how inputs are normalised")
    if labelled:
        data.check_labels(context.splits, classes_last(logits).shape[-1] - (4 if context.splits.calibration.boxes else 0))


def vocabulary(program: Program) -> int | None:
    """Return how many tokens the embedding that reads the input has rows for; None: no embedding does."""
    lookups = [node for node in program.graph.nodes if node.target is torch.ops.aten.embedding.default and node.args[1].op == "placeholder"]
    return min((int(node.args[0].meta["val"].shape[0]) for node in lookups), default=None)


def out_folder(path: Path) -> tuple[Path, Store]:
    """Return a folder that can be written, and the store of finished work in it."""
    return writable(path), Store(path / "work")


def environment() -> dict[str, str]:
    """Describe the machine and the software, for the receipt."""
    import numpy
    import onnx

    found = meter()
    return {
        "machine": platform.machine(),
        "processor": _processor(),
        "cores": str(psutil.cpu_count(logical=False) or os.cpu_count()),
        "memory_bytes": str(psutil.virtual_memory().total),
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torch_threads": str(torch.get_num_threads()),
        "numpy": numpy.__version__,
        "onnx": onnx.__version__,
        "laconic": __version__,
        "energy_meter": found.name if found else NO_METER,
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    flags = next((line for line in lines if line.startswith("flags")), "").split()
    integer = [flag for flag in ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_int8") if flag in flags]
    return " ".join([names[0] if names else platform.processor() or "unknown", *integer])


def portable(path: Path | None) -> str | None:
    """Write a path so that `located` finds it elsewhere: below the data folder or the installed packages from there, else as it is."""
    if path is None:
        return None
    resolved, data_root = path.resolve(), os.environ.get("LACONIC_DATA")
    for variable, root in ((_DATA, data_root), (_PACKAGES, sysconfig.get_path("purelib"))):
        if root and resolved.is_relative_to(Path(root).resolve()):
            return f"{variable}/{resolved.relative_to(Path(root).resolve())}"
    return str(path)


def located(written: str | None, data_root: Path | None) -> Path | None:
    """Return the path that `portable` wrote, here.

    Args:
        written: the path.
        data_root: where the data sets are; None: `./data`.
    """
    if written is None:
        return None
    variable, _, rest = written.partition("/")
    roots = {_DATA: data_root or Path("data"), _PACKAGES: Path(sysconfig.get_path("purelib"))}
    return roots[variable] / rest if variable in roots else Path(written)


def described(job: Job) -> tuple[dict[str, Any], dict[str, Any]]:
    """Describe the network and the data for the receipt."""
    origin, splits = job.origin, job.splits
    model: dict[str, Any] = {
        "name": origin.model,
        "weights": portable(origin.weights),
        "inputs": [list(entry.shape) for entry in job.program.inputs],
    }
    model["not_captured"] = list(job.not_captured)
    model |= {"trained": job.trained} if job.trained else {}
    sizes = {name: len(part) for name, part in data.parts(splits).items()}
    validation = "the calibration part (there is no training data)" if splits.train is None else "cut from the training data"
    return model, {
        "name": origin.data,
        "against": origin.against,
        "source": job.dataset.source,
        "examples": sizes,
        "validation": validation,
        "classes": len(job.dataset.classes),
    }
