"""Somebody at a pseudo-terminal, for tests of what a terminal shows."""

import contextlib
import os
import pty
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass

from tests.cli.cases import PATIENCE
from tests.commands import command


@dataclass
class Typist:
    """A process at a pseudo-terminal: what it shows, and keys pressed on it."""

    process: subprocess.Popen[bytes]
    terminal: int
    seen: str = ""  # and expected
    unread: str = ""

    def press(self, keys: str) -> None:
        os.write(self.terminal, keys.encode())

    def shows(self, text: str, seconds: float) -> bool:
        """Whether the terminal shows the text in time; what stands up to it is taken as read."""
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
        """Ctrl-C, again where it is not heard: Python's readline misses one that comes while it echoes a key."""
        for _ in range(int(PATIENCE / 5)):
            self.process.send_signal(signal.SIGINT)
            if self.shows(text, 5.0):
                return
        self.until(text)


@contextlib.contextmanager
def at_terminal(*arguments: str, stdout: int | None = None) -> Iterator[Typist]:
    """Run the command with a terminal as its standard input and, unless told otherwise, as its output."""
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
