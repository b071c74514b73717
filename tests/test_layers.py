"""Imports go downward only, never in a circle, and heavy packages are loaded where they are needed."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import laconic

SOURCE = Path(laconic.__file__).parent

# From the bottom; names in one set are peers, which do not import each other
LAYERS = (
    {"errors", "version"},
    {"files", "imported"},
    {"numeric"},
    {"program"},
    {"data", "zoo"},
    {"pack"},
    {"measure"},
    {"train"},
    {"context"},
    {"step", "goal", "recover"},
    {"prune", "quantize", "distill", "factorize", "share", "tune", "runtimes"},
    {"contract"},
    {"receipt"},
    {"store"},
    {"recipe"},
    {"fresh"},
    {"race", "against"},
    {"job"},
    {"deliver", "anatomy"},
    {"verify", "search"},
    {"verbs"},
    {"report"},
    {"cli_pack"},
    {"cli"},
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}

INSIDE_FUNCTIONS_ONLY = {"altair", "vl_convert", "onnx", "onnxruntime", "onnxscript", "openvino", "sklearn", "PIL", "psutil"}
AT_THE_TOP = {("data/pictures.py", "PIL"), ("data/cache.py", "PIL"), ("job.py", "psutil")}  # small, and reached by commands that need them

MODULES = sorted(path.relative_to(SOURCE) for path in SOURCE.rglob("*.py"))


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse((SOURCE / path).read_text(encoding="utf-8"))


def imports(path: Path, nodes: Iterator[ast.AST] | None = None) -> set[str]:
    """The dotted names that a file imports: modules, and names that may be modules, of `from` imports."""
    found = set()
    for node in nodes or ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}:{node.lineno} has a relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def at_import(path: Path) -> Iterator[ast.AST]:
    """The statements that run when the file is imported."""
    waiting: list[ast.AST] = [tree(path)]
    while waiting:
        node = waiting.pop()
        yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) and not is_type_checking(node):
            waiting += ast.iter_child_nodes(node)


def part(name: str) -> str:
    """`laconic.program.fold` -> `program`."""
    return name.split(".")[1]


def own(names: set[str]) -> set[str]:
    return {name for name in names if name.startswith("laconic.")}


def test_every_part_has_its_layer():
    parts = {path.parts[0].removesuffix(".py") for path in MODULES} - {"__init__"}
    assert parts == set(LEVEL)


@pytest.mark.parametrize("path", [path for path in MODULES if path.name != "__init__.py" or len(path.parts) > 1], ids=str)
def test_imports_go_downward(path):
    here = path.parts[0].removesuffix(".py")
    wrong = {name for name in own(imports(path)) if part(name) != here and LEVEL[part(name)] >= LEVEL[here]}
    assert not wrong, f"{path} is in layer {LEVEL[here]} and imports {sorted(wrong)} from layers that are not below it"


def module_of(name: str) -> Path | None:
    """The file behind a dotted name, or behind what it is a name in."""
    for parts in (name.split(".")[1:], name.split(".")[1:-1]):
        for path in (Path(*parts).with_suffix(".py") if parts else None, Path(*parts, "__init__.py")):
            if path is not None and (SOURCE / path).is_file():
                return path
    return None


def test_no_imports_go_in_a_circle():
    graph = {path: {module_of(name) for name in own(imports(path, at_import(path)))} - {None, path} for path in MODULES}
    done: set[Path] = set()

    def visit(path: Path, trail: tuple[Path, ...]) -> None:
        assert path not in trail, f"a circle: {' -> '.join(map(str, (*trail[trail.index(path) :], path)))}"
        if path not in done:
            for after in graph[path]:
                visit(after, (*trail, path))
            done.add(path)

    for path in MODULES:
        visit(path, ())


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_heavy_packages_are_imported_inside_functions(path):
    heavy = {name.split(".")[0] for name in imports(path, at_import(path))} & INSIDE_FUNCTIONS_ONLY
    assert {(path.as_posix(), name) for name in heavy} <= AT_THE_TOP


def test_the_exceptions_are_still_there():
    there = {(path.as_posix(), name.split(".")[0]) for path in MODULES for name in imports(path, at_import(path))}
    assert there >= AT_THE_TOP


def loaded_by(statement: str) -> set[str]:
    command = [sys.executable, "-c", f"{statement}\nimport sys; print(*sys.modules)"]
    finished = subprocess.run(command, capture_output=True, text=True, check=True)
    return {name.split(".")[0] for name in finished.stdout.split()}


@pytest.mark.parametrize("module", ["laconic", "laconic.cli", "laconic.fresh", "laconic.measure", "laconic.verbs", "laconic.runtimes"])
def test_what_only_runs_a_file_does_not_load_torch(module):
    assert not loaded_by(f"import {module}") & {"torch", "altair", "vl_convert", "onnx", "onnxruntime", "onnxscript", "openvino", "sklearn"}


def test_compressing_loads_no_plots_and_no_runtime():
    heavy = {"altair", "vl_convert", "onnx", "onnxruntime", "onnxscript", "openvino", "sklearn"}
    assert not loaded_by("import laconic.recipe, laconic.context") & heavy


def test_every_public_name_of_the_package_is_there():
    for name in laconic.__all__:
        assert getattr(laconic, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'shrinkk'"):
        laconic.shrinkk  # noqa: B018
