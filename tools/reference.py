"""Writes docs/cli.md and docs/configuration.md from the code: `python tools/reference.py`; a test holds them fresh."""

import re
from collections.abc import Iterator
from pathlib import Path

import typer
from typer.testing import CliRunner

from projtrans import config
from projtrans.cli.main import app
from projtrans.runs.settings import Config

DOCS = Path(__file__).parent.parent / "docs"
GENERATED = "Generated from the code by `python tools/reference.py`."

CLI_PAGE = """# The command line

{generated}

{commands}
## Exit status

| status | meaning |
|---|---|
| 0 | done |
| 1 | files or data: missing, damaged, not what they should be |
| 2 | flags or configuration |
| 3 | training diverged, in spite of four returns to a good state |
| 129, 130, 143 | stopped by SIGHUP (a lost terminal), SIGINT (Ctrl-C) or SIGTERM; a training run has saved its state |

Standard output carries data only (translations, score tables, JSON); everything else goes to standard error. An error
is one line there. Colours and bars appear on a terminal only, and `NO_COLOR` is honoured.
"""

CONFIGURATION_PAGE = """# Configuration

{generated}

A YAML file lists what differs from these defaults; `--set SECTION.KEY=VALUE` changes one setting on the command line.
Shipped configurations (`--config NAME`): {shipped}.
A setting with a kind in brackets exists for that kind of attention only.
{tables}"""


def cli_page() -> str:
    """Every command's help, as the command prints it."""
    command = typer.main.get_command(app)
    names = ["", *getattr(command, "commands", {})]
    return CLI_PAGE.format(generated=GENERATED, commands="\n".join(_help(name) for name in names))


def _help(name: str) -> str:
    arguments = [name, "--help"] if name else ["--help"]
    width = {"COLUMNS": "100", "TERMINAL_WIDTH": "100"}
    text = CliRunner().invoke(app, arguments, prog_name="projtrans", env=width).stdout.strip()
    title = f"projtrans {name}".strip()
    return f"## {title}\n\n```text\n{re.sub(r' +$', '', text, flags=re.M)}\n```\n"


def configuration_page() -> str:
    """Every setting with its type, range, default and meaning."""
    shipped = ", ".join(f"[{name}](../configs/{name}.yaml)" for name in config.shipped_names())
    return CONFIGURATION_PAGE.format(generated=GENERATED, shipped=shipped, tables="\n".join(_tables()) + "\n")


def _tables() -> Iterator[str]:
    section = ""
    for dotted, kind, default, doc in config.describe(Config):
        first = dotted.partition(".")[0]
        if first != section:
            section = first
            yield f"\n## {section}\n\n| setting | values | default | meaning |\n|---|---|---|---|"
        meaning = doc.replace("|", r"\|")  # a bar would end the cell
        yield f"| `{dotted}` | {kind} | `{default}` | {meaning} |"


if __name__ == "__main__":
    (DOCS / "cli.md").write_text(cli_page(), encoding="utf-8")
    (DOCS / "configuration.md").write_text(configuration_page(), encoding="utf-8")
