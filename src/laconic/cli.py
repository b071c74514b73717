"""The command line: one command per verb.

Exit codes: 0 done, 1 a check failed, 2 a mistake in what was given, 3 the budget cannot be met.
"""

import json
import math
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console

from laconic.cli_pack import pack, unpack
from laconic.errors import LaconicError
from laconic.version import __version__

if TYPE_CHECKING:
    from laconic.job import Origin
    from laconic.receipt import Receipt
    from laconic.step import Step

app = typer.Typer(
    name="laconic",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="A trained neural network, a way to score it and a budget in; a smaller, faster network with a measured receipt out.",
    epilog="Start with: laconic shrink --help",
)
_INTERRUPTED = 130  # what a shell says of a program ended by Ctrl-C
_errors = Console(stderr=True, soft_wrap=True, highlight=False)

Model = Annotated[
    str,
    typer.Option(
        "--model",
        help="The network: [bold]zoo:NAME[/] (lenet300, lenet5, resnet20, resnet56, mobilenet_v2, digits_cnn, "
        "char_transformer, stories260k, minilm, minilm_classifier, sentence_cnn, speech), [bold]timm:NAME[/], "
        "your own [bold]file.py:factory[/] or [bold]package.module:factory[/] (called without arguments, "
        "returns a torch.nn.Module), or a saved [bold]program.safetensors[/].",
    ),
]
Weights = Annotated[Path | None, typer.Option(help="Its weights: .safetensors, or .pt (read without running code from it).")]
Data = Annotated[
    str,
    typer.Option(
        "--data",
        help="The data: [bold]digits[/] (built in), [bold]mnist[/], [bold]cifar10[/], [bold]cifar10-jpeg[/], [bold]imagenet-dev[/], "
        "[bold]tinyshakespeare[/], [bold]stories260k[/], [bold]sst2[/], [bold]fsdd[/], "
        "[bold]images:FOLDER[/], a [bold].npz[/] file, or your own [bold]file.py:function[/] returning a laconic.Dataset. "
        "Options follow as a query: imagenet-dev?size=192.",
    ),
]
Against = Annotated[
    Literal["labels", "network"],
    typer.Option(
        "--against",
        help="What outputs are scored against: the data's [bold]labels[/], or what the float [bold]network[/] itself gives, by cosine: for "
        "encoders of sentences or images, and for data whose labels mean nothing to it. A cosine of 0.99 is 1 point lost.",
    ),
]
DataRoot = Annotated[Path | None, typer.Option(help="Folder of the data sets; else $LACONIC_DATA, else ./data.")]
Out = Annotated[
    Path, typer.Option("--out", help="Folder for the artifact, receipt.json and report.html. The same command goes on where it was killed.")
]
Seed = Annotated[
    int, typer.Option(min=0, help="Seed of the validation and calibration cuts and of training; the test split never depends on it.")
]
Threads = Annotated[
    int, typer.Option(min=1, help="Threads of the runtime in every measurement, stated on the receipt. Torch takes OMP_NUM_THREADS.")
]
Runtime = Annotated[
    str,
    typer.Option(
        help="What executes the artifact: onnxruntime, openvino, [bold]fastest[/] of the installed ones; or "
        "[bold]lac[/], a packed file that torch runs: smaller, not faster."
    ),
]
Compile = Annotated[
    bool,
    typer.Option(
        "--compile",
        envvar="LACONIC_COMPILE",
        help="Compile networks for training with torch.compile; needs a C++ compiler. Minutes at first, then batches in less time: for "
        "long trainings.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output, for machines.")]
Control = Annotated[
    int,
    typer.Option(
        min=0,
        help="Also run the recipe with and without its teacher's answers on so many seeds, and print what these gain on the validation "
        "split; 0: do not.",
    ),
]
Epochs = Annotated[int, typer.Option(min=1, help="Epochs of recipes that train; four times as many where structures were removed.")]


@app.command()
def shrink(
    model: Model,
    data: Data,
    out: Out,
    weights: Weights = None,
    max_drop: Annotated[float | None, typer.Option(help="Accuracy that may be lost, in percentage points.")] = 1.0,
    smaller: Annotated[float | None, typer.Option(help="How many times smaller the file must be.")] = None,
    faster: Annotated[float | None, typer.Option(help="How many times faster at batch 1 than the fastest float32 runtime here.")] = None,
    max_bytes: Annotated[int | None, typer.Option(help="Largest size of the file.")] = None,
    max_latency_ms: Annotated[float | None, typer.Option(help="Longest median latency at batch 1.")] = None,
    runtime: Runtime = "onnxruntime",
    epochs: Epochs = 3,
    against: Against = "labels",
    data_root: DataRoot = None,
    seed: Seed = 0,
    threads: Threads = 1,
    compile_networks: Compile = False,
    as_json: Json = False,
) -> None:
    """Find the cheapest recipe that meets a budget, and deliver its file with a receipt.

    Recipes are tried cheapest first and judged on the exported file: accuracy on a validation split, bytes, and latency interleaved
    with the float network. The delivered file is then measured once on the test split. Exit code 3: no recipe met the budget; the
    best one is delivered and the receipt says what it misses.

    [bold]Example[/]: laconic shrink --model zoo:resnet20 --weights resnet20.safetensors --data cifar10-jpeg
    --max-drop 0.5 --smaller 3.2 --faster 1.5 --out runs/r20
    """
    from laconic.job import Origin, out_folder
    from laconic.receipt import Budget
    from laconic.runtimes import PACKED, candidates
    from laconic.search import check_budget, prepare_trained
    from laconic.search import shrink as search

    for option, value in (("max-drop", max_drop), ("smaller", smaller), ("faster", faster), ("max-latency-ms", max_latency_ms)):
        if value is not None and not math.isfinite(value):
            raise LaconicError(f"--{option} must be a number; got {value}")
    if (smaller, faster, max_bytes, max_latency_ms) == (None, None, None, None):
        smaller, faster = 1.0, None if runtime == PACKED else 1.0  # nothing asked for: at least it must not get worse
    budget = Budget(max_drop, smaller, faster, max_bytes, max_latency_ms)
    check_budget(budget)
    runtimes = candidates(runtime)
    folder, store = out_folder(out)
    job = prepare_trained(
        Origin(model, data, weights, data_root, seed, against), threads, runtimes[0], folder, store, _say, compile_networks
    )
    receipt = search(job, budget, folder, store, runtime, _say, epochs)
    _finish(receipt, out, as_json)


@app.command()
def compress(
    recipe: Annotated[Path, typer.Option(help="A YAML recipe: a list of steps. `laconic schema` prints its JSON Schema.")],
    model: Model,
    data: Data,
    out: Out,
    weights: Weights = None,
    runtime: Runtime = "onnxruntime",
    against: Against = "labels",
    control: Control = 0,
    data_root: DataRoot = None,
    seed: Seed = 0,
    threads: Threads = 1,
    compile_networks: Compile = False,
    as_json: Json = False,
) -> None:
    """Apply a recipe of your own, and deliver its file with a receipt.

    A recipe is YAML, for example:

        - prune.Magnitude: {sparsity: 0.5}
        - distill.Response: {epochs: 5}
        - quantize.Static:
    """
    from laconic.job import Origin
    from laconic.recipe import read_recipe

    origin = Origin(model, data, weights, data_root, seed, against)
    _apply(read_recipe(recipe), origin, out, runtime, threads, as_json, control, compile_networks)


@app.command()
def distill(
    teacher: Annotated[str, typer.Option("--teacher", help="The network to learn from, written as [bold]--model[/] of compress.")],
    student: Annotated[
        str,
        typer.Option(
            "--student",
            help="The network that learns: [bold]zoo:NAME[/], [bold]timm:NAME[/] or [bold]file.py:factory[/]; or the teacher cut down: "
            "[bold]width:0.5[/] keeps half the filters of every layer, [bold]blocks:0.5[/] drops whole blocks until half of the "
            "multiply-accumulates are left.",
        ),
    ],
    data: Data,
    out: Out,
    teacher_weights: Annotated[Path | None, typer.Option(help="The teacher's weights, as --weights of compress.")] = None,
    student_weights: Annotated[Path | None, typer.Option(help="What a named student begins with; random ones if left out.")] = None,
    method: Annotated[
        str,
        typer.Option(
            help="What is learned beside the labels. Of the teacher's answers: divergence, decoupled, correlation, standardized, of maps "
            "channels; of values inside it: hint, attention, similarity, review; of how examples stand to each other: distances, contrast."
        ),
    ] = "divergence",
    epochs: Annotated[int, typer.Option(min=1)] = 30,
    batch: Annotated[int, typer.Option(min=1)] = 128,
    learning_rate: Annotated[float, typer.Option(help="At the height of the schedule.")] = 0.1,
    optimizer: Annotated[str, typer.Option(help="sgd or adamw.")] = "sgd",
    schedule: Annotated[str, typer.Option(help="cosine, one-cycle or constant.")] = "one-cycle",
    weight_decay: Annotated[float, typer.Option(help="Pull of weights to zero.")] = 5e-4,
    temperature: Annotated[float, typer.Option(help="Softens the answers of both.")] = 4.0,
    alpha: Annotated[float, typer.Option(help="Weight of the teacher's answers; labels have the rest.")] = 0.7,
    views: Annotated[
        int | None,
        typer.Option(min=1, help="Ask the teacher once for so many views of every example, and use the answers again: saves its time."),
    ] = None,
    cache: Annotated[Path | None, typer.Option(help="Folder in which these answers outlive the run.")] = None,
    control: Control = 0,
    runtime: Runtime = "onnxruntime",
    data_root: DataRoot = None,
    seed: Seed = 0,
    threads: Threads = 1,
    compile_networks: Compile = False,
    as_json: Json = False,
) -> None:
    """Teach a small network what a large one knows, and deliver its file with a receipt that compares both.

    It is a recipe of two steps, which the receipt shows: the student, and distill.Response, distill.Feature or distill.Relation. More
    steps, more teachers and other settings: write them as a recipe for [bold]laconic compress[/].

    [bold]Example[/]: laconic distill --teacher zoo:resnet56 --teacher-weights resnet56.safetensors --student zoo:resnet20
    --data cifar10-jpeg --views 10 --out runs/r20
    """
    from laconic.distill.plan import plan
    from laconic.job import Origin
    from laconic.recipe import parse

    settings: dict[str, Any] = {"epochs": epochs, "batch": batch, "learning_rate": learning_rate, "optimizer": optimizer}
    settings |= {"schedule": schedule, "weight_decay": weight_decay, "temperature": temperature, "alpha": alpha, "views": views}
    settings |= {"cache": str(cache)} if cache else {}
    steps = parse(plan(student, student_weights, method, settings))
    _apply(steps, Origin(teacher, data, teacher_weights, data_root, seed), out, runtime, threads, as_json, control, compile_networks)


def _apply(
    steps: "list[Step]", origin: "Origin", out: Path, runtime: str, threads: int, as_json: bool, control: int, compile_networks: bool
) -> None:
    """Apply steps to a network, deliver the file and finish."""
    from laconic.deliver import Delivery, deliver, export_each, fastest, fastest_float
    from laconic.files import write_text
    from laconic.job import out_folder, prepare
    from laconic.program import clone
    from laconic.recipe import apply, check_needs, check_patterns, not_kept, plain, read_files
    from laconic.report.comparison import gained
    from laconic.runtimes import candidates
    from laconic.runtimes import runtime as known
    from laconic.search import gain, on_labels_alone
    from laconic.store import key

    runtimes = candidates(runtime)
    folder, store = out_folder(out)
    job = prepare(origin, threads, runtime=runtimes[0], compiled=compile_networks)
    check_needs(steps, job.context)
    check_patterns(job.program, steps)
    if control:
        on_labels_alone(steps)
    for each in runtimes:
        for note in not_kept(steps, known(each).KEEPS, job.program):
            _say(
                f"{each} does not execute this form as such and holds it dense: {note}. "
                f"It makes program.safetensors smaller, not the {known(each).SUFFIX} file, and nothing faster"
            )
    baseline = fastest_float(job, store, _say)
    compressed = apply(clone(job.program), steps, job.context, store, _say)
    name = f"artifact-{key(job.model_hash, job.data_hash, origin.seed, plain(steps), *read_files(steps))}"
    files = export_each(compressed.program, name, runtimes, job, store, _say)
    receipt = deliver(Delivery(job, baseline, fastest(files, job, store), compressed, plain(steps)), folder, store, _say)
    if control:
        found = gain(job, steps, control, store, _say)
        write_text(folder / "control.json", json.dumps(found.plain(), indent=1) + "\n")
        _say(f"{gained(found)}: {out / 'control.json'}")
    _finish(receipt, out, as_json)


@app.command()
def train(
    model: Model,
    data: Data,
    out: Annotated[Path, typer.Option("--out", help="The weights to write: a .safetensors file.")],
    weights: Weights = None,
    epochs: Annotated[int, typer.Option(min=1)] = 30,
    batch: Annotated[int, typer.Option(min=1)] = 128,
    learning_rate: Annotated[float, typer.Option(help="At the height of the schedule.")] = 0.1,
    optimizer: Annotated[str, typer.Option(help="sgd or adamw.")] = "sgd",
    schedule: Annotated[str, typer.Option(help="cosine, one-cycle or constant.")] = "one-cycle",
    warmup: Annotated[
        float | None, typer.Option(help="Share of training in which the learning rate rises; default: the schedule's.")
    ] = None,
    weight_decay: Annotated[float, typer.Option(help="Pull of weights to zero.")] = 5e-4,
    clip: Annotated[float | None, typer.Option(help="Largest norm of all gradients together.")] = None,
    data_root: DataRoot = None,
    seed: Seed = 0,
    threads: Threads = 1,
    compile_networks: Compile = False,
    as_json: Json = False,
) -> None:
    """Train a network on labels, from scratch or from weights, when you need one to start from. The test split is not looked at."""
    from safetensors.torch import save as serialize

    from laconic.contract import fingerprint
    from laconic.files import write_bytes
    from laconic.job import Origin, prepare
    from laconic.program import dense_state
    from laconic.recipe import check_needs, parse
    from laconic.store import writable

    settings = {"epochs": epochs, "batch": batch, "learning_rate": learning_rate, "optimizer": optimizer, "schedule": schedule}
    settings |= {"warmup": warmup, "weight_decay": weight_decay, "clip": clip}
    steps = parse([{"tune.FineTune": settings}])
    if out.suffix != ".safetensors":
        raise LaconicError(f"--out must be a .safetensors file; got {out}")
    writable(out.absolute().parent)
    job = prepare(Origin(model, data, weights, data_root, seed), threads, trained=False, compiled=compile_networks)
    check_needs(steps, job.context)
    program = job.program
    folder = out.with_name(f"{out.name}.unfinished")
    steps[0](program, replace(job.context, folder=folder))
    write_bytes(out, serialize(dense_state(program)))
    _remove(folder)
    score = job.context.score(program, job.splits.validation)
    held = job.splits.validation
    if held.sequences:
        what, value, words = "perplexity", math.exp(-score), f"perplexity {math.exp(-score):.3f}"
    elif held.maps:
        what, value, words = "mean_iou", score, f"mean IoU {score:.2%}"
    elif held.boxes:
        what, value, words = "average_precision", score, f"AP at IoU 0.5 {score:.2%}"
    else:
        what, value, words = "accuracy", score, f"{score:.2%}"
    result = {"weights": str(out), f"validation_{what}": value, "model_sha256": fingerprint(program)}
    _print(result, f"{out}: {words} on the validation split", as_json)


@app.command()
def measure(
    network: Annotated[str, typer.Argument(help="An exported file (.onnx, .lac), or a network as for --model.")],
    data: Data,
    weights: Weights = None,
    runtime: Runtime = "onnxruntime",
    data_root: DataRoot = None,
    seed: Seed = 0,
    threads: Threads = 1,
    as_json: Json = False,
) -> None:
    """Measure one network on the test split, in fresh processes: accuracy, bytes, MACs, latency, throughput, peak memory, energy."""
    from laconic.deliver import measure_alone
    from laconic.job import Origin

    result = measure_alone(Origin(network, data, weights, data_root, seed), runtime, threads)
    lines = "\n".join(f"{name:22} {value}" for name, value in result.items() if name != "accuracy_per_class")
    _print(result, lines, as_json)


@app.command()
def export(
    model: Model,
    out: Annotated[Path, typer.Option("--out", "-o", help="The file to write; its suffix is the runtime's (.onnx).")],
    data: Annotated[str | None, typer.Option(help="Data whose inputs fit the network; not needed for a saved program.")] = None,
    weights: Weights = None,
    runtime: Runtime = "onnxruntime",
    data_root: DataRoot = None,
    as_json: Json = False,
) -> None:
    """Write a network for a runtime and check the file: integers where they were promised, outputs equal, integer kernels executed."""
    from laconic.job import Origin, load_program, prepare
    from laconic.program import example_of
    from laconic.runtimes import runtime as known
    from laconic.store import writable

    module = known(runtime)
    if out.suffix != module.SUFFIX:
        raise LaconicError(f"{runtime} writes {module.SUFFIX} files; got --out {out}")
    writable(out.absolute().parent)
    if model.endswith((".safetensors", ".lac")):
        program, _ = load_program(Origin(model, ""), None)
        example = example_of(program)
    elif data is None:
        raise LaconicError("--data is needed to export a model that is not a saved program: its inputs show the network's shapes")
    else:
        job = prepare(Origin(model, data, weights, data_root), 1)
        program, example = job.program, job.context.example()
    written = module.export(program, example, out)
    result = {
        "file": str(out),
        "file_bytes": out.stat().st_size,
        "integer_tensors": written.integer_tensors,
        "integer_kernels": written.integer_kernels,
        "difference": written.difference,
        "baked": list(written.baked),
    }
    counts = f"{written.integer_tensors} integer tensors, {written.integer_kernels} integer kernels executed"
    text = "\n".join([f"{out}: {result['file_bytes']:,} bytes, {counts}", *(f"written dense: {note}" for note in written.baked)])
    _print(result, text, as_json)


@app.command()
def groups(
    model: Annotated[
        str,
        typer.Argument(
            help="The network, as for --model: [bold]zoo:NAME[/], [bold]timm:NAME[/], [bold]file.py:factory[/], "
            "[bold]package.module:factory[/], or a saved [bold]program.safetensors[/]."
        ),
    ],
    written: Annotated[
        str | None,
        typer.Option(
            "--input",
            metavar="SHAPE",
            help="What it takes, where that is not known: one example without the batch, [bold]3x224x224[/], or [bold]128:int64[/] for "
            "token ids; several inputs separated by commas.",
        ),
    ] = None,
    weights: Weights = None,
    data: Annotated[str | None, typer.Option(help="Data that shows what it takes, as for shrink.")] = None,
    data_root: DataRoot = None,
    as_json: Json = False,
) -> None:
    """List the channel groups of a network (what can be cut, and what each group carries), and what must stay whole, with the reason.

    MACs and bytes of a group are all that its channels take part in. Beside them stands what the first channel to be cut takes with it.
    A product counts for the group of its rows and for that of its columns, so the shares add up to more than the network.
    A group is exact when cutting channels computes what zeroing the weights that make and read them would.

    [bold]Example[/]: laconic groups mine.py:bert --input 128:int64
    """
    from laconic.anatomy import anatomy, plain
    from laconic.job import Origin
    from laconic.report import frozen_table, groups_table

    found = anatomy(Origin(model, data or "", weights, data_root), written)
    if as_json:
        sys.stdout.write(json.dumps(plain(found), indent=2) + "\n")
        return
    console = Console()
    console.print(groups_table(found))
    console.print(frozen_table(found))


@app.command()
def verify(
    folder: Annotated[Path, typer.Argument(help="A folder with receipt.json and its artifact.")],
    data_root: DataRoot = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of the runtime; default: as on the receipt.")] = None,
    as_json: Json = False,
) -> None:
    """Measure a delivered file anew in fresh processes and compare with its receipt. Exit code 0 only when every claim holds."""
    from rich.table import Table

    from laconic.verify import verify as check

    verdict = check(folder, data_root, threads)
    if as_json:
        sys.stdout.write(json.dumps({"ok": verdict.ok, "checks": [asdict(one) for one in verdict.checks]}, indent=2) + "\n")
    else:
        table = Table("claim", "on the receipt", "measured now", "tolerance", "", title=str(folder))
        for one in verdict.checks:
            table.add_row(one.name, _short(one.claimed), _short(one.measured), f"{one.tolerance:g}", "ok" if one.ok else "[red]differs[/]")
        Console().print(table)
        Console().print("every claim holds" if verdict.ok else "[red]not every claim holds[/]")
    raise typer.Exit(0 if verdict.ok else 1)


@app.command()
def report(folder: Annotated[Path, typer.Argument(help="A folder with receipt.json.")], as_json: Json = False) -> None:
    """Write report.html and the plots of a receipt again."""
    from laconic.receipt import read_receipt
    from laconic.report import receipt_table, write_report

    receipt = read_receipt(folder)
    path = write_report(receipt, folder)
    if not as_json:
        Console().print(receipt_table(receipt))
    _print({"report": str(path)}, f"report: {path}", as_json)


@app.command()
def schema() -> None:
    """Print the JSON Schema of a recipe: every step with its settings, ranges and defaults."""
    from laconic.recipe import schema as recipe_schema

    sys.stdout.write(json.dumps(recipe_schema(), indent=2) + "\n")


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    if version:
        sys.stdout.write(f"laconic {__version__}\n")
        raise typer.Exit


def _say(text: str) -> None:
    _errors.print(text, markup=False)


def _finish(receipt: "Receipt", out: Path, as_json: bool) -> None:
    """Write the report, print the receipt and end with the code that says whether the budget is met."""
    from laconic.receipt import to_json
    from laconic.report import receipt_table, write_report

    path = write_report(receipt, out)
    if as_json:
        sys.stdout.write(to_json(receipt))
    else:
        console = Console()
        console.print(receipt_table(receipt))
        console.print(
            f"artifact: {out / receipt.after.file}\nreceipt:  {out / 'receipt.json'}\nreport:   {path}", soft_wrap=True, highlight=False
        )
    if not receipt.met:
        _say(f"the budget cannot be met with the recipes there are; the best is delivered, and it misses: {'; '.join(receipt.missed)}")
        raise typer.Exit(3)


app.command()(pack)
app.command()(unpack)


def _print(result: dict[str, Any], text: str, as_json: bool) -> None:
    sys.stdout.write((json.dumps(result, indent=2) if as_json else text) + "\n")


def _short(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)[:20]


def _remove(folder: Path) -> None:
    import shutil

    shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    """Run the command line; a mistake in what was given becomes one paragraph and exit code 2."""
    try:
        app()
    except LaconicError as error:
        _errors.print(f"[bold red]error:[/] {_plain(str(error))}")
        sys.exit(2)
    except SystemExit as end:
        if end.code == _INTERRUPTED:
            _errors.print("stopped; the same command goes on from here")
        raise


def _plain(text: str) -> str:
    return text.replace("[", r"\[")


if __name__ == "__main__":
    main()
