"""Write docs/cli.md, docs/configuration.md and the file map of docs/design.md: `python tools/reference.py`.

A test fails while they do not agree with the code.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import typer
from typer.testing import CliRunner

from projtrans import config
from projtrans.cli.main import app
from projtrans.runs.settings import Config

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
FILE_MAP = "## File map\n"
FOLDERS = ("", "data", "model", "search", "runs", "inference", "evaluation", "training", "comparison", "cli")
"""In the order in which they may import each other."""
GENERATED = "Generated from the code by `python tools/reference.py`."

CLI_PAGE = """# The command line

{generated}

{commands}
## Exit status

| status | meaning |
|---|---|
| 0 | success |
| 1 | files or data: missing, damaged, or not what was expected |
| 2 | flags or configuration |
| 3 | training diverged, despite four returns to a good state |
| 129, 130, 143 | stopped by SIGHUP (a lost terminal), SIGINT (Ctrl-C) or SIGTERM; training has saved its state |

Standard output carries only data (translations, score tables, JSON); everything else goes to standard error. An error
is one line there. Colors and progress bars appear only on a terminal, and `NO_COLOR` is honored.

## Completion

`projtrans --install-completion` sets up completion in the current shell (bash, zsh, fish, PowerShell); it takes effect
in new shells. Values are offered for `--config` (shipped configurations), `--attention`, `--set` (settings with their
values or defaults), `--model`, `--run` and RUN (run folders in `runs/`), `--data` (data folders in `data/`), and every
option with a few possible values.
"""

CONFIGURATION_PAGE = """# Configuration

{generated}

A YAML file lists what differs from these defaults; `--set SECTION.KEY=VALUE` changes one setting on the command line.
Shipped configurations (`--config NAME`): {shipped}.
A setting followed by a kind in parentheses exists only for that kind of attention.
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


def design_page() -> str:
    """docs/design.md, with a file map of the folders and the first sentence of every file."""
    written = (DOCS / "design.md").read_text(encoding="utf-8")
    package = ROOT / "projtrans"
    lines = [line for folder in FOLDERS for line in _mapped(package / folder)]
    return written.partition(FILE_MAP)[0] + FILE_MAP + f"\n{GENERATED}\n" + "".join(lines)


def _mapped(folder: Path) -> Iterator[str]:
    yield f"\n**{folder.name}/** {_first_sentence(folder / '__init__.py')}\n\n"
    for file in sorted(folder.glob("[!_]*.py")):
        yield f"- `{file.stem}`: {_first_sentence(file)}\n"


def _first_sentence(file: Path) -> str:
    text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    return re.split(r"(?<=[.:])\s*\n\s*\n", text, maxsplit=1)[0].replace("\n", " ")


if __name__ == "__main__":
    (DOCS / "design.md").write_text(design_page(), encoding="utf-8")
    (DOCS / "cli.md").write_text(cli_page(), encoding="utf-8")
    (DOCS / "configuration.md").write_text(configuration_page(), encoding="utf-8")
