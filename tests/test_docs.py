"""The documentation against the code: generated pages are fresh, links lead somewhere, commands exist as written."""

import dataclasses
import importlib
import importlib.util
import inspect
import re
import shlex
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer
import yaml

import projtrans
from projtrans.cli.main import app
from projtrans.config import describe, shipped_names
from projtrans.model.multihead import MultiHeadAttention
from projtrans.model.transformer import ModelConfig
from projtrans.runs.run_folder import Run
from projtrans.training.events import TROUBLES
from tests.commands import done
from tests.toy import KINDS, Toy

ROOT = Path(__file__).parent.parent
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
GENERATED = [("cli.md", "cli_page"), ("configuration.md", "configuration_page"), ("design.md", "design_page")]
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def reference() -> ModuleType:
    specification = importlib.util.spec_from_file_location("reference", ROOT / "tools" / "reference.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("page", "maker"), GENERATED)
def test_generated_pages_are_fresh(page: str, maker: str) -> None:
    written = (ROOT / "docs" / page).read_text(encoding="utf-8")
    assert getattr(reference(), maker)() == written, f"run {Path(sys.executable).name} tools/reference.py"


def test_every_row_of_a_generated_table_has_the_cells_of_its_head() -> None:
    rows = [line for line in reference().configuration_page().splitlines() if line.startswith("|")]
    assert len(rows) > 60
    for row in rows:
        assert len(re.findall(r"(?<!\\)\|", row)) == 5, row


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_inside_the_project_lead_to_a_file(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def commands_of(page: Path) -> list[list[str]]:
    """Every `projtrans ...` of a page's shell blocks and inline code, as words, up to a pipe, comment or the like."""
    text = page.read_text(encoding="utf-8")
    shell = "\n".join(re.findall(r"```(?:sh|console)\n(.*?)```", text, flags=re.S))
    shell = shell.replace("\\\n", " ")  # a command on several lines
    lines = re.findall(r"(?:^|[|&$] *|`)(projtrans [^\n`|&#>]*)", shell, flags=re.M)
    lines += re.findall(r"`(projtrans [^`|&#>]*)`", re.sub(r"```.*?```", "", text, flags=re.S))
    return [shlex.split(line) for line in lines]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_in_the_documentation_exist_with_their_options(page: Path) -> None:
    for words in commands_of(page):
        name = words[1] if len(words) > 1 else ""
        if name.startswith("-") or not name:
            continue
        assert name in COMMANDS, words
        options = {option for parameter in COMMANDS[name].params for option in parameter.opts} | {"--help"}
        unknown = [word for word in words[2:] if word.startswith("--") and word.partition("=")[0] not in options]
        assert not unknown, words


def test_the_readme_has_commands_to_check() -> None:
    assert len(commands_of(ROOT / "README.md")) >= 8


def test_every_command_and_every_option_has_help() -> None:
    for name, command in COMMANDS.items():
        assert command.help, name
        assert "Example:" in command.help, name
        for parameter in command.params:
            assert getattr(parameter, "help", None), f"{name} {parameter.name}"


def test_every_folder_and_file_of_the_package_is_in_the_file_map() -> None:
    text = (ROOT / "docs" / "design.md").read_text(encoding="utf-8").partition("## File map\n")[2]
    files = [file for file in (ROOT / "projtrans").rglob("*.py") if not file.name.startswith("__")]
    assert sorted(re.findall(r"^- `(\w+)`: ", text, re.M)) == sorted(file.stem for file in files)
    folders = [path.parent.name for path in (ROOT / "projtrans").rglob("__init__.py")]
    assert sorted(re.findall(r"^\*\*(\w+)/\*\*", text, re.M)) == sorted(folders)


def test_docs_holds_pages_only_and_the_index_lists_them_all() -> None:
    pages = {path.name for path in (ROOT / "docs").iterdir()} - {"index.md"}
    assert all(name.endswith(".md") for name in pages)
    assert pages <= set(re.findall(r"\]\(([\w-]+\.md)", (ROOT / "docs" / "index.md").read_text(encoding="utf-8")))


def test_every_benchmark_is_documented() -> None:
    page = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8").partition("## The scripts\n")[2]
    scripts = re.findall(r"^\| `(\w+\.py)` .* `python benchmarks/(\w+\.py)", page, re.M)
    assert all(first == second for first, second in scripts)
    assert {first for first, _ in scripts} == {path.name for path in (ROOT / "benchmarks").glob("*.py")}


def test_the_version_is_the_same_everywhere() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == projtrans.__version__
    newest = re.search(r"^## (\S+) \((\S+)\)$", (ROOT / "docs" / "changelog.md").read_text(encoding="utf-8"), re.M)
    assert newest
    assert newest.groups() == (projtrans.__version__, str(citation["date-released"]))


@pytest.mark.parametrize("name", ["sanger2026-standard", "sanger2026-projection"])
def test_what_the_paper_does_not_state_is_marked_in_its_configurations(name: str) -> None:
    assert name in shipped_names()
    text = (ROOT / "configs" / f"{name}.yaml").read_text(encoding="utf-8")
    inferred = (
        "layers:",
        "width:",
        "feedforward:",
        "output_dropout:",
        "norm:",
        "positions:",
        "optimizer:",
        "batch_sentences:",
    )
    for line in text.splitlines():
        if line.strip().startswith(inferred):
            assert "(K)" in line, line


def test_the_paper_configurations_differ_in_the_attention_alone() -> None:
    standard, projection = (
        yaml.safe_load((ROOT / "configs" / f"sanger2026-{kind}.yaml").read_text(encoding="utf-8"))
        for kind in ("standard", "projection")
    )
    assert standard["model"].pop("attention") == {"kind": "standard"}
    assert projection["model"].pop("attention")["sigma"] == {"self": 0.01, "cross": 0.05}
    assert standard == projection


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_page_waits_for_a_figure(page: Path) -> None:
    assert not re.search(r"@@|TODO|TBD", page.read_text(encoding="utf-8"))


def test_the_attention_of_the_documentation_is_the_one_that_is_tested() -> None:
    page = (ROOT / "docs" / "attention.md").read_text(encoding="utf-8")
    block = re.search(r"```python\n(.*?)```", page, re.DOTALL)
    assert block
    tested = (ROOT / "tests" / "model" / "laplace.py").read_text(encoding="utf-8")
    for part in re.split(r"\n\n\n", block[1].strip()):
        assert part.removeprefix("@register\n") in tested


def documented(page: str, kind: str) -> set[str]:
    """The fields of the table "field of `KIND`"."""
    table = page.partition(f"| field of `{kind}` |")[2].partition("\n\n")[0]
    return {name for row in table.splitlines()[2:] for name in re.findall(r"`(\w+)`", row.split("|")[1])}


@pytest.mark.parametrize("kind", KINDS)
def test_every_field_of_the_log_is_documented_and_no_other(toy: Toy, kind: str) -> None:
    page = (ROOT / "docs" / "files.md").read_text(encoding="utf-8")
    records = Run(toy.run(kind)).read_metrics()
    assert {record["event"] for record in records} == {"train", "valid"}
    for record in records:
        assert record.keys() == documented(page, record["event"])
    figures = {name for record in records for module in record.get("attention", {}).values() for name in module}
    numbers = {"standard": set(), "projection": {"sigma"}}[kind]
    assert documented(page, "attention") == figures | {"sigma", "tau"}
    assert figures & {"sigma", "tau"} == numbers  # τ: test_telemetry.py


@pytest.mark.parametrize("kind", TROUBLES, ids=lambda kind: TROUBLES[kind])
def test_every_field_of_what_goes_wrong_is_documented_and_no_other(kind: Any) -> None:
    page = (ROOT / "docs" / "files.md").read_text(encoding="utf-8")
    assert documented(page, TROUBLES[kind]) == {"event"} | {field.name for field in dataclasses.fields(kind)}


def test_the_event_of_averaged_weights_is_documented(workshop: Path) -> None:
    sets = ["training.average_checkpoints=2", "training.epochs=2", "training.evaluate_test=false"]
    sets = [item for assignment in sets for item in ("--set", assignment)]
    result = done("train", "--config", "tiny.yaml", "--run", "run", "--threads", 1, *sets)
    *_, record = Run(Path("run")).read_metrics()
    assert record["event"] == "average"
    assert record.keys() == documented((ROOT / "docs" / "files.md").read_text(encoding="utf-8"), "average")
    first, second = record["updates"]
    assert f"mean of updates {first}, {second}: valid loss {record['loss']:.3f}" in result.err


# ------------------------------------------------------------------------------------------- symbols of the attention

SYMBOLS = (ROOT / "docs" / "attention.md").read_text(encoding="utf-8")
SYMBOLS = SYMBOLS.partition("## Symbol, setting, function, test\n")[2].partition("\n## ")[0]
ROWS = [
    [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in SYMBOLS.splitlines() if line[:1] == "|"
]
MODULES = [
    importlib.import_module(f"projtrans.model.{name}")
    for name in ("attention", "multihead", "attention_function", "transformer", "batching")
]
SETTINGS = {dotted.partition(" ")[0]: kind for dotted, kind, *_ in describe(ModelConfig, "model")}


def test_the_table_of_symbols_is_read() -> None:
    assert ROWS[0] == ["in the paper", "setting", "function", "held by"]
    assert len(ROWS) > 11
    assert all(len(row) == 4 for row in ROWS)


@pytest.mark.parametrize("row", ROWS[2:], ids=lambda row: row[0])
def test_settings_of_the_table_of_symbols_exist_with_their_values(row: list[str]) -> None:
    words = re.findall(r"`([^`]+)`", row[1])
    found = {word.partition(":")[0]: word.partition(":")[2] for word in words}
    known = {name: path for name in found for path in SETTINGS if path in (name, f"model.attention.{name}")}
    known |= {name: f"model.attention.sigma.{name}" for name in found if f"model.attention.sigma.{name}" in SETTINGS}
    allowed = " ".join(SETTINGS[path] for path in (*known.values(), "model.attention.kind"))
    for name, values in found.items():
        if name == "sigma":
            assert all(f"model.attention.sigma.{key}" in SETTINGS for key in re.findall(r"(\w+):", values))
            continue
        assert name in known or re.search(rf"\b{name}\b", allowed), f"{name}: neither a setting nor a value of one"
        for value in re.findall(r"[\w.]+", values):
            assert value == "τ" or re.search(rf"\b{value}\b", allowed), f"{name}: {value}"


@pytest.mark.parametrize("row", ROWS[2:], ids=lambda row: row[0])
def test_functions_of_the_table_of_symbols_exist(row: list[str]) -> None:
    for name in re.findall(r"`([^`]+)`", row[2]):
        first, *rest = name.removesuffix("()").split(".")
        owners = [*MODULES, MultiHeadAttention]
        (found,) = {
            id(thing): thing for owner in owners if (thing := vars(owner).get(first, attribute(owner, first)))
        }.values()
        for part in rest:
            assert hasattr(found, part) or attribute(found, part), name


def attribute(owner: Any, name: str) -> Any:
    """What a class keeps under a name: annotated, or set when it is made."""
    if not isinstance(owner, type):
        return None
    made = re.search(rf"self\.{name}\b(?=[\w.,= ]*=)", inspect.getsource(owner))
    return owner.__annotations__.get(name) or made


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_test_files_that_are_named_exist(page: Path) -> None:
    for name in re.findall(r"\btest_\w+\.py\b", page.read_text(encoding="utf-8")):
        assert any((ROOT / "tests").rglob(name)), name


def test_the_section_on_symbols_names_the_tests_of_the_attention() -> None:
    named = set(re.findall(r"test_\w+\.py", SYMBOLS))
    assert {
        f"test_{name}.py" for name in ("attention", "identities", "multihead", "attention_function", "switches")
    } <= named
