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
NAMES = sorted(path.stem for path in PACKAGE.glob("*.py"))
modules = pytest.mark.parametrize("name", NAMES)

# A file imports only files of rows above its own; the files of one row never import each other.
LAYERS = [
    ["errors", "stopping"],
    ["config", "files", "device", "distributed", "inflection", "frames", "products", "segments"],
    ["lexicon", "multihead", "cooccurrence", "loss", "optimizer", "decoding", "tokenizer", "corpus", "tatoeba"],
    ["phrasebook", "attention", "encoding", "manifest", "search", "numpy_search"],
    ["transformer", "tally", "batching", "translation"],
    ["run", "telemetry", "resident", "alignment", "copying", "windows"],
    ["checkpoint", "onnx_engine"],
    ["translate", "export"],
    ["engine", "evaluate", "prepare", "settings", "arithmetic", "__init__"],
    ["events", "launch", "sides"],
    ["trainstate", "compare", "figure", "tensorboard"],
    ["objective"],
    ["graphs"],
    ["trainer"],
    ["train", "preview"],
    ["console", "options", "report", "streams", "heatmap", "unfinished"],
    ["prompt", "shell"],
    ["filtering"],
    ["cli"],
    ["__main__"],
]
ROW = {name: row for row, names in enumerate(LAYERS) for name in names}
TENSOR_WING = {
    "products",
    "multihead",
    "attention",
    "cooccurrence",
    "transformer",
    "telemetry",
    "alignment",
    "loss",
    "optimizer",
    "decoding",
    "search",
    "numpy_search",
}
TEXT_WING = {
    "segments",
    "tokenizer",
    "corpus",
    "encoding",
    "manifest",
    "tatoeba",
    "phrasebook",
    "lexicon",
    "inflection",
    "frames",
}
MOST_LINES_OF_A_FILE = 500
MOST_LINES_OF_A_FUNCTION = 80


@cache
def tree(name: str) -> ast.Module:
    return ast.parse((PACKAGE / f"{name}.py").read_text(encoding="utf-8"))


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
    """The files of the package that a file imports; a name of the package itself lies in `__init__`."""
    dotted = {module for module in imported(name) if module.split(".")[0] == "projtrans"}
    files = {module.split(".")[1] for module in dotted if "." in module}
    return {file if file in NAMES else "__init__" for file in files}


def outside_imports(name: str) -> set[str]:
    return {module.split(".")[0] for module in imported(name)} - {"projtrans"}


# --------------------------------------------------------------------------------------------------------- the walls


def test_the_table_holds_every_file_once() -> None:
    assert sorted(name for names in LAYERS for name in names) == NAMES


@modules
def test_a_file_imports_only_files_of_rows_above_its_own(name: str) -> None:
    climbing = {other for other in own_imports(name) if ROW[other] >= ROW[name]}
    assert not climbing, f"{name} (row {ROW[name]}) imports {climbing}"


def test_an_import_inside_a_function_counts() -> None:
    assert "translate" in own_imports("__init__"), "under TYPE_CHECKING and in a function, and nowhere else"


@pytest.mark.parametrize("name", sorted(TENSOR_WING))
def test_the_tensor_wing_sees_no_text(name: str) -> None:
    assert not own_imports(name) & (TEXT_WING | {"files", "run", "prepare"})
    assert not outside_imports(name) & {"sentencepiece", "sacrebleu", "yaml", "pathlib", "json"}


@pytest.mark.parametrize("name", sorted(TEXT_WING))
def test_the_text_wing_sees_no_model(name: str) -> None:
    assert not own_imports(name) & (TENSOR_WING | {"batching", "checkpoint", "translate", "device"})
    assert "torch" not in outside_imports(name)


ONLY_IN = [
    ("rich", {"console"}, "the only file that renders"),
    ("typer", {"cli", "options", "shell"}, "the command line, its options, its wall of errors"),
    ("click", set(), "Typer bundles it: its errors would not be ours"),
    ("sentencepiece", {"tokenizer"}, "one tokenizer"),
    ("sacrebleu", {"evaluate"}, "one score"),
    ("onnxruntime", {"onnx_engine", "export"}, "an optional extra"),
    ("onnx", {"export"}, "an optional extra"),
    ("matplotlib", {"figure"}, "an optional extra"),
    ("tensorboard", set(), "an optional extra, reached through torch, in tensorboard.py"),
    ("safetensors", {"checkpoint"}, "one format of weights"),
    ("yaml", {"config", "frames", "lexicon"}, "settings, and the two halves of the bundled corpus"),
    ("pickle", set(), "nothing is unpickled"),
    ("argparse", set(), "Typer parses"),
    ("logging", {"export"}, "events are typed and go through a callable; others' are silenced"),
]


@pytest.mark.parametrize(("package", "files", "reason"), ONLY_IN, ids=[row[0] for row in ONLY_IN])
def test_a_package_is_imported_where_it_belongs(package: str, files: set[str], reason: str) -> None:
    assert {name for name in NAMES if package in outside_imports(name)} <= files, reason


# --------------------------------------------------------------------------------------------------------- the sizes


@modules
def test_no_file_is_too_long(name: str) -> None:
    lines = len((PACKAGE / f"{name}.py").read_text(encoding="utf-8").splitlines())
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
    assert not set(re.split(r"_+", name)) & {"utils", "util", "helpers", "helper", "common", "manager", "misc"}


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
        assert "ProjtransError" not in caught or name == "shell", f"line {node.lineno}: only one wall renders all"


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
            assert not (isinstance(part, ast.Constant) and part.value in words) or name == "attention", node.lineno
            asked = getattr(part, "id", getattr(part, "attr", ""))
            assert asked not in {"ProjectionAttention", "StandardAttention", "ProjectionConfig", "StandardConfig"}, (
                node.lineno
            )


@modules
def test_nothing_is_printed_below_the_console(name: str) -> None:
    if ROW[name] < ROW["console"]:
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
    ("import projtrans.cli", ["-c", "import projtrans.cli"], "projtrans.cli"),
    ("--help", ["-m", "projtrans", "--help"], "projtrans.cli"),
    ("--version", ["-m", "projtrans", "--version"], "projtrans.cli"),
    ("help of a command", ["-m", "projtrans", "train", "--help"], "projtrans.cli"),
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
