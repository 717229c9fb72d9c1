"""The prompt of `translate` on a pseudo-terminal."""

import contextlib
import os
import pty
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cli.cases import PATIENCE
from tests.commands import command, done, run

pytestmark = pytest.mark.slow


@dataclass
class Typist:
    """Somebody at a process's pseudo-terminal: reads what it shows and presses keys."""

    process: subprocess.Popen[bytes]
    terminal: int
    seen: str = ""  # up to the last text waited for
    unread: str = ""

    def press(self, keys: str) -> None:
        os.write(self.terminal, keys.encode())

    def shows(self, text: str, seconds: float) -> bool:
        """Whether the terminal shows the text in time; if so, the output up to it counts as read."""
        deadline = time.monotonic() + seconds
        while text not in self.unread and time.monotonic() < deadline:
            if select.select([self.terminal], [], [], 0.2)[0]:
                try:
                    self.unread += os.read(self.terminal, 4096).decode("utf-8", "replace")
                except OSError:  # Linux: the other end is closed
                    break
        if text not in self.unread:
            return False
        before, found, self.unread = self.unread.partition(text)
        self.seen += before + found
        return True

    def until(self, text: str) -> None:
        assert self.shows(text, PATIENCE), f"{text!r} is not shown after {self.seen!r}, but {self.unread!r}"

    def interrupt_until(self, text: str) -> None:
        """Press Ctrl-C until it takes effect: Python's readline loses one that arrives while it echoes a key."""
        for _ in range(int(PATIENCE / 5)):
            self.process.send_signal(signal.SIGINT)
            if self.shows(text, 5.0):
                return
        self.until(text)


@contextlib.contextmanager
def at_terminal(*arguments: str, stdout: int | None = None) -> Iterator[Typist]:
    """Run the command with a terminal as standard input, standard error and, by default, standard output."""
    terminal, slave = pty.openpty()
    environment = {**os.environ, "TERM": "dumb"}
    process = subprocess.Popen(
        command(*arguments), stdin=slave, stdout=slave if stdout is None else stdout, stderr=slave, env=environment
    )
    os.close(slave)
    try:
        yield Typist(process, terminal)
    finally:
        process.kill()
        process.wait()
        os.close(terminal)


@pytest.mark.parametrize("leave", [":quit\n", "\x04"])
def test_the_prompt_translates_until_one_leaves(workshop: Path, leave: str) -> None:
    texts = ["three one four", "nine eight"]
    wanted = done("translate", *texts).lines
    with at_terminal("translate") as typist:
        for text, translation in zip(texts, wanted, strict=True):
            typist.until("> ")
            typist.press(f"{text}\n")
            typist.until(f"{translation}\r\n")
        typist.until("> ")
        typist.press("\n")
        typist.until("> ")
        typist.press(leave)
        assert typist.process.wait(PATIENCE) == 0
    assert "Traceback" not in typist.seen


def test_the_prompt_forgets_a_line_at_ctrl_c_and_remembers_the_others(
    workshop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(workshop / "state"))
    wanted = done("translate", "seven").lines[0]
    with at_terminal("translate") as typist:
        typist.until("> ")
        typist.press("nonsense")
        typist.until("nonsense")
        typist.interrupt_until("> ")
        typist.press("seven\n")
        typist.until(f"{wanted}\r\n")
        typist.until("> ")
        typist.press(":q\n")
        assert typist.process.wait(PATIENCE) == 0
    history = (workshop / "state" / "projtrans" / "history").read_text(encoding="utf-8")
    assert "seven" in history.split("\n")
    assert "nonsense" not in history


def test_the_prompt_writes_nothing_but_translations_to_standard_output(workshop: Path) -> None:
    """With standard output in a file, prompt and messages stay on the terminal."""
    wanted = done("translate", "three one four", "seven").out
    with Path("out").open("wb") as out, at_terminal("translate", stdout=out.fileno()) as typist:
        typist.press("three one four\nseven\n:quit\n")
        assert typist.process.wait(PATIENCE) == 0
    assert Path("out").read_text(encoding="utf-8") == wanted


def test_interactive_from_a_pipe_is_data_only_too(workshop: Path) -> None:
    result = run("translate", "--interactive", "--quiet", folder=workshop, stdin=b"three one four\nseven\n")
    assert result.status == 0
    assert result.out == done("translate", "three one four", "seven").out
