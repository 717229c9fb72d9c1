"""`projtrans` itself: help, version, what every command has in common, what is imported when."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import projtrans
from tests.cli.cases import with_set
from tests.commands import cli, done

COMMANDS = ("prepare", "train", "evaluate", "compare", "translate", "export")


@pytest.mark.parametrize("option", ["-h", "--help"])
@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name: str, option: str) -> None:
    result = done(name, option)
    assert f"{name} [OPTIONS]" in result.out
    assert "Example: " in result.out
    assert result.err == ""


@pytest.mark.parametrize("option", ["--quiet", "--threads"])
@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_the_common_options(name: str, option: str) -> None:
    assert option in done(name, "--help").out


def test_the_help_states_the_default_penalty_and_beam() -> None:
    text = " ".join(done("translate", "--help").out.split())
    assert re.search(r"--beam-size .* 5 unless set", text)
    assert re.search(r"--length-penalty .*\(\(5 \+ length\) / 6\)\^α .* 1\.0 unless set", text)


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_the_help_lists_the_commands_with_a_whole_sentence_each(option: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    commands = dict(line.split(maxsplit=1) for line in done(option).out.partition("Commands:\n")[2].splitlines())
    assert tuple(commands) == COMMANDS
    assert all(re.fullmatch(r".*[^.]\.", sentence) for sentence in commands.values())


def test_no_command_is_a_usage_error_with_help() -> None:
    result = cli()
    assert (result.status, result.out) == (2, "")
    assert all(name in result.err for name in COMMANDS)


def test_the_version_is_that_of_the_package() -> None:
    assert done("--version").out == f"projtrans {projtrans.__version__}\n"


def test_help_and_version_do_not_import_torch(tmp_path: Path) -> None:
    """Importing torch takes over a second; neither it nor anything that imports it may be loaded."""
    program = """
import contextlib, sys
from projtrans.cli.main import app
for arguments in (["--version"], ["--help"], *([name, "--help"] for name in sys.argv[1:])):
    with contextlib.suppress(SystemExit):
        app(arguments)
heavy = {"torch", "numpy", "sacrebleu", "sentencepiece", "safetensors"} & set(sys.modules)
print(sorted(heavy), file=sys.stderr)
"""
    finished = subprocess.run(
        [sys.executable, "-c", program, *COMMANDS], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert finished.stderr == "[]\n"
    assert finished.stdout.count("Usage:") == 1 + len(COMMANDS)


def test_the_package_does_not_import_torch_until_it_is_needed() -> None:
    program = "import sys, projtrans; print('torch' in sys.modules)"
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert finished.stdout == "False\n"
    assert projtrans.Translator.__name__ == "Translator"


@pytest.mark.parametrize(
    "arguments",
    [
        ["prepare", "toy.tsv", "-o", "new"],
        with_set("training.epochs=1"),
        ["evaluate", "--beam-size", "1"],
        ["compare", "runs/tiny-standard", "runs/tiny-projection"],
        ["translate", "one", "two " * 500],
    ],
)
def test_quiet_prints_nothing_but_data(workshop: Path, arguments: list[str]) -> None:
    assert done(*arguments, "--quiet").err == ""
