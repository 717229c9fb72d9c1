"""Writes docs/cli.md and docs/configuration.md from the code: `python docs/reference.py`. A stale page fails a test."""

import re
from collections.abc import Iterator
from pathlib import Path

import typer
from typer.testing import CliRunner

from projtrans import config
from projtrans.cli import app
from projtrans.settings import Config

DOCS = Path(__file__).parent


def cli_page() -> str:
    """Every command's help, as the command prints it."""
    commands = list(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    runner, parts = CliRunner(), ["# The command line", "", "Generated from the code by `python docs/reference.py`."]
    for command in ["", *commands]:
        arguments = [command, "--help"] if command else ["--help"]
        text = runner.invoke(app, arguments, prog_name="projtrans", env={"COLUMNS": "100", "TERMINAL_WIDTH": "100"}).stdout
        parts += ["", f"## projtrans {command}".rstrip(), "", "```text", re.sub(r" +$", "", text.strip(), flags=re.M), "```"]
    parts += ["", *_contract()]
    return "\n".join(parts) + "\n"


def _contract() -> Iterator[str]:
    yield "## Exit status"
    yield ""
    yield "| status | meaning |"
    yield "|---|---|"
    yield "| 0 | done |"
    yield "| 1 | files or data: missing, damaged, not what they should be |"
    yield "| 2 | flags or configuration |"
    yield "| 3 | training diverged |"
    yield "| 130, 143 | stopped by SIGINT (Ctrl-C) or SIGTERM; a training run has saved its state |"
    yield ""
    yield "Standard output carries data only (translations, score tables, JSON); everything else goes to standard error. An"
    yield "error is one line there. Colours and bars appear on a terminal only, and `NO_COLOR` is honoured."


def configuration_page() -> str:
    """Every setting with its type, range, default and meaning."""
    parts = [
        "# Configuration",
        "",
        "Generated from the code by `python docs/reference.py`.",
        "",
        "A YAML file lists what differs from these defaults; `--set SECTION.KEY=VALUE` changes one setting on the command",
        "line. Shipped configurations (`--config NAME`): "
        + ", ".join(f"[{name}](../configs/{name}.yaml)" for name in config.shipped_names())
        + ".",
        "A setting in brackets of a kind exists for that kind of attention only.",
    ]
    section = ""
    for dotted, kind, default, doc in config.describe(Config):
        first = dotted.partition(".")[0]
        if first != section:
            section = first
            parts += ["", f"## {section}", "", "| setting | values | default | meaning |", "|---|---|---|---|"]
        parts.append(f"| `{dotted}` | {kind} | `{default}` | {doc} |".replace("|α|", "α"))
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    (DOCS / "cli.md").write_text(cli_page(), encoding="utf-8")
    (DOCS / "configuration.md").write_text(configuration_page(), encoding="utf-8")
