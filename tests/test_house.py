"""The house rules, read from the source by `ast`: who imports whom, how long things are, what stands where.

A rule is one test over all files; its message names every file and line that breaks it.
"""

import ast
import re
import statistics
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import projtrans

PACKAGE = Path(projtrans.__file__).parent
NAMES = sorted(str(path.relative_to(PACKAGE).with_suffix("")).replace("/", ".") for path in PACKAGE.rglob("*.py"))
"""The product's files by dotted name."""

TESTS = Path(__file__).parent
TEST_FILES = sorted(TESTS.rglob("*.py"))

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

NEVER_TORCH = {"", "data", "search"}
WITHOUT_TORCH = ["cli.translate", "inference.line_translation", "inference.onnx_translator"]
"""Where an ONNX translation begins: neither these nor what they import at their top imports torch."""

MOST_LINES_OF_A_FILE = 500
MOST_LINES_OF_A_FUNCTION = 80
MEDIAN_LINES_OF_A_FUNCTION = 8


@cache
def parse(path: Path) -> ast.Module:
    """The tree of a file, read once."""
    return ast.parse(path.read_text(encoding="utf-8"))


def path_of(name: str) -> Path:
    """Where a file of the product lies."""
    return PACKAGE / f"{name.replace('.', '/')}.py"


@cache
def nodes(name: str) -> list[ast.AST]:
    """Every node of a file of the product."""
    return list(ast.walk(parse(path_of(name))))


def folder(name: str) -> str:
    """The folder of a file; empty for those at the top."""
    return name.rpartition(".")[0]


def imports_of(found: list[ast.AST]) -> Iterator[str]:
    """Every module that the nodes import with its dotted name; `from package import name` as both."""
    for node in found:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import hides from the table"
            assert node.module
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@cache
def imported(name: str) -> frozenset[str]:
    """The modules that a file of the product imports, wherever the import stands."""
    return frozenset(imports_of(nodes(name)))


def own(modules: frozenset[str]) -> set[str]:
    """Those of them that are files of the product, the `__init__` of the package not counted."""
    return {module.removeprefix("projtrans.") for module in modules if module.startswith("projtrans.")} & set(NAMES)


def outside(modules: frozenset[str]) -> set[str]:
    """The packages among them that are not the product."""
    return {module.split(".")[0] for module in modules} - {"projtrans"}


# --------------------------------------------------------------------------------------------------------- the walls


def test_every_folder_has_its_rule() -> None:
    assert {folder(name) for name in NAMES} == {"", *MAY_IMPORT}
    assert {name for name in NAMES if not folder(name)} == {"__init__", "__main__", *GROUND}


def may_import(name: str, other: str) -> bool:
    """Whether a file may import another."""
    if not folder(name):
        return name in ("__init__", "__main__") or other in GROUND[: GROUND.index(name)]
    return folder(other) in {"", folder(name)} | MAY_IMPORT[folder(name)]


def test_a_file_imports_what_its_folder_may_import() -> None:
    wrong = [(name, other) for name in NAMES for other in own(imported(name)) if not may_import(name, other)]
    assert not wrong


def test_no_files_import_each_other_in_a_circle() -> None:
    left = {name: own(imported(name)) - {name} for name in NAMES if not name.endswith("__init__")}
    while ready := {name for name, others in left.items() if not others & left.keys()}:
        left = {name: others for name, others in left.items() if name not in ready}
    assert not left


def test_an_import_inside_a_function_counts() -> None:
    assert "inference.torch_translator" in own(imported("__init__")), "under TYPE_CHECKING and in a function only"


def test_ground_data_and_search_never_import_torch() -> None:
    wrong = [name for name in NAMES if folder(name) in NEVER_TORCH and "torch" in outside(imported(name))]
    assert not wrong


def imported_at_once(name: str) -> frozenset[str]:
    """What importing a file imports: what stands at its top, not within functions or `if TYPE_CHECKING`."""
    return frozenset(imports_of(list(parse(path_of(name)).body)))


def test_an_onnx_translation_imports_no_torch() -> None:
    found: set[str] = set()
    ahead = set(WITHOUT_TORCH)
    while ahead:
        found |= ahead
        ahead = {other for name in ahead for other in own(imported_at_once(name))} - found
    assert {"search.decoding", "runs.run_folder", "data.tokenizer"} <= found, "what is imported in turn is followed"
    assert not [name for name in found if "torch" in outside(imported_at_once(name))]


def test_model_and_search_see_no_text() -> None:
    text = {"sentencepiece", "sacrebleu", "yaml", "pathlib", "json"}
    for name in (name for name in NAMES if folder(name) in {"model", "search"}):
        reads_the_machine = {"pathlib"} if name == "model.devices" else set()
        assert not outside(imported(name)) & (text - reads_the_machine), name
        assert "files" not in own(imported(name)), name


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
    assert {name for name in NAMES if package in outside(imported(name))} <= files, reason


# --------------------------------------------------------------------------------------------------------- the sizes


def lengths(path: Path) -> dict[str, int]:
    """The lines of every function of a file."""
    return {
        f"{path}:{node.lineno} {node.name}": node.end_lineno - node.lineno + 1
        for node in ast.walk(parse(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno
    }


def test_no_file_is_too_long() -> None:
    files = [*map(path_of, NAMES), *TEST_FILES]
    lines = {str(path): len(path.read_text(encoding="utf-8").splitlines()) for path in files}
    assert not {path: count for path, count in lines.items() if count > MOST_LINES_OF_A_FILE}


def test_functions_are_short() -> None:
    product, tests = (
        {function: lines for path in paths for function, lines in lengths(path).items()}
        for paths in (map(path_of, NAMES), TEST_FILES)
    )
    assert not {name: lines for name, lines in (product | tests).items() if lines > MOST_LINES_OF_A_FUNCTION}
    assert statistics.median(product.values()) <= MEDIAN_LINES_OF_A_FUNCTION


# --------------------------------------------------------------------------------------------------------- the bans


def test_no_file_is_a_junk_drawer() -> None:
    drawers = {"utils", "util", "helpers", "helper", "common", "manager", "misc"}
    assert not [name for name in NAMES if set(re.split(r"[_.]+", name)) & drawers]


def test_every_file_says_what_it_is() -> None:
    assert not [path for path in map(path_of, NAMES) if not ast.get_docstring(parse(path))]


def caught_unknown(name: str) -> list[str]:
    """Handlers of any exception at all; `except BaseException` may clean up, if it raises again."""
    found = []
    for node in nodes(name):
        if not isinstance(node, ast.ExceptHandler):
            continue
        caught = {part.id for part in ast.walk(node.type) if isinstance(part, ast.Name)} if node.type else set()
        raises_again = isinstance(node.body[-1], ast.Raise)
        one_wall = name == "cli.shell" or "ProjtransError" not in caught  # it alone turns an error into a line
        if not node.type or "Exception" in caught or not one_wall or ("BaseException" in caught and not raises_again):
            found.append(f"{name}:{node.lineno}")
    return found


def test_nothing_is_caught_that_is_not_known() -> None:
    assert not [place for name in NAMES for place in caught_unknown(name)]


def compared_by(node: ast.AST) -> list[ast.AST]:
    """What a comparison, a match case or an isinstance() compares with."""
    if isinstance(node, ast.Compare):
        return [part for side in (node.left, *node.comparators) for part in ast.walk(side)]
    if isinstance(node, ast.match_case):
        return list(ast.walk(node.pattern))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "isinstance":
        return list(ast.walk(node.args[1]))
    return []


def test_the_kind_of_attention_is_asked_for_nowhere() -> None:
    """`VARIANTS[kind]` is the only place where the YAML word becomes a class."""
    words = {"projection", "standard"}
    classes = {"ProjectionAttention", "StandardAttention", "ProjectionConfig", "StandardConfig"}
    for name in NAMES:
        for part in (part for node in nodes(name) for part in compared_by(node)):
            asks_by_word = isinstance(part, ast.Constant) and part.value in words and name != "model.attention"
            asks_by_class = getattr(part, "id", getattr(part, "attr", "")) in classes
            assert not asks_by_word, (name, part.lineno)
            assert not asks_by_class, (name, getattr(part, "lineno", None))


def test_nothing_is_printed_below_the_console() -> None:
    calls = [(name, node) for name in NAMES if folder(name) != "cli" for node in nodes(name)]
    assert not [
        f"{name}:{node.lineno}"
        for name, node in calls
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]


def test_importing_a_file_does_nothing_but_define() -> None:
    """`__main__` alone may act."""
    allowed = ast.Import | ast.ImportFrom | ast.FunctionDef | ast.ClassDef | ast.Assign | ast.AnnAssign | ast.If
    for name in (name for name in NAMES if name != "__main__"):
        for node in parse(path_of(name)).body:
            text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
            assert text or isinstance(node, allowed), f"{name}:{node.lineno}"


# ---------------------------------------------------------------------------------------------------------- the tests


def test_tests_mirror_the_folders() -> None:
    folders = {path.name for path in TESTS.iterdir() if path.is_dir() and list(path.glob("*.py"))}
    assert folders == {*MAY_IMPORT, "tools"}


def test_no_test_imports_another_test() -> None:
    """What two files need stands in a module of its own, which pytest does not collect."""
    imports = {(path.name, module) for path in TEST_FILES for module in imports_of(list(ast.walk(parse(path))))}
    assert not [pair for pair in imports if re.match(r"tests\.(\w+\.)*(test_\w+|conftest)(\.|$)", pair[1])]


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
