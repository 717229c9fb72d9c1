"""The house rules, read from the source by `ast`: who imports whom, how long things are, what stands where."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import projtrans

PACKAGE = Path(projtrans.__file__).parent
NAMES = sorted(str(path.relative_to(PACKAGE).with_suffix("")).replace("/", ".") for path in PACKAGE.rglob("*.py"))
modules = pytest.mark.parametrize("name", NAMES)

GROUND = ["errors", "config", "files", "sequences"]
"""Files at the top of the package that everything may import; each imports only those before it."""

MAY_IMPORT = {
    "data": set(),
    "model": set(),
    "search": set(),
    "runs": {"data", "model", "search"},
    "inference": {"data", "model", "search", "runs"},
    "evaluation": {"data", "model", "search", "runs", "inference"},
    "training": {"data", "model", "search", "runs", "inference", "evaluation"},
    "comparison": {"data", "model", "search", "runs", "inference", "evaluation"},
    "cli": {"data", "model", "search", "runs", "inference", "evaluation", "training", "comparison"},
}
"""The folders that a folder may import, besides itself and the ground."""

NEVER_TORCH = {"data", "search"}
MOST_LINES_OF_A_FILE = 500
MOST_LINES_OF_A_FUNCTION = 80


@cache
def tree(name: str) -> ast.Module:
    return ast.parse(source(name))


def source(name: str) -> str:
    return (PACKAGE / f"{name.replace('.', '/')}.py").read_text(encoding="utf-8")


def folder(name: str) -> str:
    """The folder of a file; empty for those at the top."""
    return name.rpartition(".")[0]


def imported(name: str) -> Iterator[str]:
    """Every imported module with its dotted name, wherever the import stands; `from package import name` as both."""
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}.py:{node.lineno}: a relative import hides from the table"
            assert node.module
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_imports(name: str) -> set[str]:
    """The files of the package that a file imports; a name of a package itself lies in its `__init__`."""
    dotted = {module.removeprefix("projtrans.") for module in imported(name) if module.startswith("projtrans.")}
    return {module for module in dotted if module in NAMES} | (
        {"__init__"} & {"__init__" for m in dotted if m == "__version__"}
    )


def outside_imports(name: str) -> set[str]:
    return {module.split(".")[0] for module in imported(name)} - {"projtrans"}


# --------------------------------------------------------------------------------------------------------- the walls


def test_every_folder_has_its_rule() -> None:
    assert {folder(name) for name in NAMES} == {"", *MAY_IMPORT}
    assert {name for name in NAMES if not folder(name)} == {"__init__", "__main__", *GROUND}


@modules
def test_a_file_imports_what_its_folder_may_import(name: str) -> None:
    if name in ("__init__", "__main__"):
        return
    for other in own_imports(name) - {"__init__"}:
        if not folder(name):
            assert other in GROUND[: GROUND.index(name)], f"{name} imports {other}"
        else:
            allowed = {"", folder(name)} | MAY_IMPORT[folder(name)]
            assert folder(other) in allowed, f"{name} imports {other}"


def test_no_files_import_each_other_in_a_circle() -> None:
    left = {name: own_imports(name) - {name} for name in NAMES if not name.endswith("__init__")}
    while ready := {name for name, others in left.items() if not others & left.keys()}:
        left = {name: others for name, others in left.items() if name not in ready}
    assert not left


def test_an_import_inside_a_function_counts() -> None:
    assert "inference.torch_translator" in own_imports("__init__"), "under TYPE_CHECKING and in a function only"


@pytest.mark.parametrize("name", [name for name in NAMES if folder(name) in NEVER_TORCH or name in GROUND])
def test_ground_data_and_search_never_import_torch(name: str) -> None:
    assert "torch" not in outside_imports(name)


@pytest.mark.parametrize("name", [name for name in NAMES if folder(name) in {"model", "search"}])
def test_model_and_search_see_no_text(name: str) -> None:
    reads_the_machine = {"pathlib"} if name == "model.devices" else set()
    assert not outside_imports(name) & {"sentencepiece", "sacrebleu", "yaml", "pathlib", "json"} - reads_the_machine
    assert "files" not in own_imports(name)


ONLY_IN = [
    ("rich", {"cli.console", "cli.displays"}, "the only files that render"),
    ("typer", {"cli.main", "cli.evaluate", "cli.options", "cli.shell"}, "the command line, its options, its errors"),
    ("click", set(), "Typer bundles it: its errors would not be ours"),
    ("sentencepiece", {"data.tokenizer"}, "one tokenizer"),
    ("sacrebleu", {"evaluation.metrics", "evaluation.test_scores"}, "one score"),
    ("onnxruntime", {"inference.onnx_translator", "inference.onnx_export"}, "an optional extra"),
    ("onnx", {"inference.onnx_export"}, "an optional extra"),
    ("matplotlib", {"comparison.figure", "runs.curves"}, "an optional extra"),
    ("tensorboard", set(), "an optional extra, reached through torch, in training/watchers.py"),
    ("safetensors", {"runs.checkpoint"}, "one format of weights"),
    ("yaml", {"config"}, "settings"),
    ("pickle", set(), "nothing is unpickled"),
    ("argparse", set(), "Typer parses"),
    ("logging", {"inference.onnx_export"}, "events are typed and go through a callable; others' are silenced"),
]


@pytest.mark.parametrize(("package", "files", "reason"), ONLY_IN, ids=[row[0] for row in ONLY_IN])
def test_a_package_is_imported_where_it_belongs(package: str, files: set[str], reason: str) -> None:
    assert {name for name in NAMES if package in outside_imports(name)} <= files, reason


# --------------------------------------------------------------------------------------------------------- the sizes


@modules
def test_no_file_is_too_long(name: str) -> None:
    lines = len(source(name).splitlines())
    assert lines <= MOST_LINES_OF_A_FILE


@modules
def test_no_function_is_too_long(name: str) -> None:
    lengths = {
        f"{node.name} (line {node.lineno})": node.end_lineno - node.lineno + 1
        for node in ast.walk(tree(name))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno
    }
    assert not {function: length for function, length in lengths.items() if length > MOST_LINES_OF_A_FUNCTION}


# --------------------------------------------------------------------------------------------------------- the bans


@modules
def test_no_file_is_a_junk_drawer(name: str) -> None:
    assert not set(re.split(r"[_.]+", name)) & {"utils", "util", "helpers", "helper", "common", "manager", "misc"}


@modules
def test_every_file_says_what_it_is(name: str) -> None:
    assert ast.get_docstring(tree(name))


@modules
def test_nothing_is_caught_that_is_not_known(name: str) -> None:
    """`except BaseException` may clean up, if it raises again."""
    for node in ast.walk(tree(name)):
        if not isinstance(node, ast.ExceptHandler):
            continue
        assert node.type is not None, f"line {node.lineno}: bare except"
        caught = {part.id for part in ast.walk(node.type) if isinstance(part, ast.Name)}
        assert "Exception" not in caught, f"line {node.lineno}"
        assert "BaseException" not in caught or isinstance(node.body[-1], ast.Raise), f"line {node.lineno}"
        assert "ProjtransError" not in caught or name == "cli.shell", f"line {node.lineno}: only one wall renders all"


@modules
def test_the_kind_of_attention_is_asked_for_nowhere(name: str) -> None:
    """`VARIANTS[kind]` is the only place where the YAML word becomes a class."""
    words = {"projection", "standard"}
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Compare):
            compared = [part for side in (node.left, *node.comparators) for part in ast.walk(side)]
        elif isinstance(node, ast.match_case):
            compared = list(ast.walk(node.pattern))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "isinstance":
            compared = list(ast.walk(node.args[1]))
        else:
            continue
        for part in compared:
            assert not (isinstance(part, ast.Constant) and part.value in words) or name == "model.attention", (
                node.lineno
            )
            asked = getattr(part, "id", getattr(part, "attr", ""))
            assert asked not in {"ProjectionAttention", "StandardAttention", "ProjectionConfig", "StandardConfig"}, (
                node.lineno
            )


@modules
def test_nothing_is_printed_below_the_console(name: str) -> None:
    if folder(name) != "cli":
        calls = [node for node in ast.walk(tree(name)) if isinstance(node, ast.Call)]
        assert not [node.lineno for node in calls if isinstance(node.func, ast.Name) and node.func.id == "print"]


@modules
def test_importing_a_file_does_nothing_but_define(name: str) -> None:
    """`__main__` alone may act."""
    if name != "__main__":
        allowed = ast.Import | ast.ImportFrom | ast.FunctionDef | ast.ClassDef | ast.Assign | ast.AnnAssign | ast.If
        for node in tree(name).body:
            text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
            assert text or isinstance(node, allowed), f"line {node.lineno}"


# -------------------------------------------------------------------------------------------------- the public surface


def test_the_public_names_are_these() -> None:
    assert projtrans.__all__ == ["OnnxTranslator", "ProjtransError", "Translator", "__version__"]
    for name in projtrans.__all__:
        assert getattr(projtrans, name) is not None
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*", projtrans.__version__)
    with pytest.raises(AttributeError, match="no attribute 'Transformer'"):
        projtrans.Transformer  # noqa: B018


QUICK = [
    ("import projtrans", ["-c", "import projtrans"], "projtrans.errors"),
    ("import projtrans.cli.main", ["-c", "import projtrans.cli.main"], "projtrans.cli.main"),
    ("--help", ["-m", "projtrans", "--help"], "projtrans.cli.main"),
    ("--version", ["-m", "projtrans", "--version"], "projtrans.cli.main"),
    ("help of a command", ["-m", "projtrans", "train", "--help"], "projtrans.cli.main"),
]


@pytest.mark.parametrize(("reason", "arguments", "needed"), QUICK, ids=[row[0] for row in QUICK])
def test_what_needs_no_torch_does_not_wait_for_it(
    reason: str, arguments: list[str], needed: str, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=tmp_path,
        check=True,
    )
    loaded = set(re.findall(r"\|\s+([\w.]+)\s*$", done.stderr, re.MULTILINE))
    assert needed in loaded, "the list of imports is read as it is written"
    assert not {name for name in loaded if name.split(".")[0] in {"torch", "numpy", "sentencepiece", "sacrebleu"}}, (
        reason
    )
