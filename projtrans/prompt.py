"""The interactive prompt: a sentence in, its translation out, with line editing and history."""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from projtrans import console
from projtrans.translation import SentenceTranslator

HISTORY_LINES = 1000


def prompt(translator: SentenceTranslator, n_best: int, quiet: bool) -> None:
    """Read sentences until the end of the input (Ctrl-D) or `:quit`, and print their translations.

    Ctrl-C forgets the line. A blank line is ignored.
    """
    console.note("A sentence and Enter translates; Ctrl-D or :quit leaves.", quiet)
    with _history():
        for number, line in enumerate(_typed(), 1):
            if not line.strip():
                continue
            translation = translator.translate([line], n_best=n_best, numbers=[number])[0]
            for hypothesis in translation.hypotheses:
                score = f"{hypothesis.score:8.3f}  " if n_best > 1 else ""
                print(f"{score}{hypothesis.translation}", flush=True)


def _typed() -> Iterator[str]:
    beside = None if sys.stdin.isatty() and sys.stdout.isatty() else sys.stderr  # never among the data
    while True:
        try:
            if beside:
                print("> ", end="", file=beside, flush=True)
            line = input("" if beside else "> ")
        except KeyboardInterrupt:
            print(file=beside)
            continue
        except EOFError:
            print(file=beside)
            return
        if line.strip() in (":quit", ":q"):
            return
        yield line


@contextlib.contextmanager
def _history() -> Iterator[None]:
    """Line editing with the history of earlier sessions, where readline is there and the file can be used."""
    try:
        import readline
    except ImportError:  # Windows
        yield
        return
    state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    file = state / "projtrans" / "history"
    with contextlib.suppress(OSError):
        readline.read_history_file(file)
    readline.set_history_length(HISTORY_LINES)
    yield
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        readline.write_history_file(file)
