"""Signals that ask a training to stop."""

import os
import signal
from types import FrameType
from typing import Any, Self

HANGUP = getattr(signal, "SIGHUP", None)
"""Sent when the terminal is gone; not every system has it."""


class StopSignals:
    """Remembers the first SIGINT, SIGTERM or SIGHUP, so that training can save its state.

    A second SIGINT or SIGTERM stops at once. A second SIGHUP is ignored: a shell may send its own after the terminal's.
    Under `nohup` SIGHUP is ignored altogether. patient: a second SIGINT or SIGTERM is ignored too, since torchrun may
    forward a signal that the process has received already.
    """

    def __init__(self, patient: bool = False) -> None:
        self.patient = patient
        self.number: int | None = None
        self.before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        self.terminals = [descriptor for descriptor in (1, 2) if os.isatty(descriptor)]
        for number in (signal.SIGINT, signal.SIGTERM):
            self.before[number] = signal.signal(number, self._remember)
        if HANGUP is not None and signal.getsignal(HANGUP) != signal.SIG_IGN:
            self.before[HANGUP] = signal.signal(HANGUP, self._hang_up)
        return self

    def __exit__(self, *unused: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def __call__(self) -> int | None:
        return self.number

    def _hang_up(self, number: int, frame: FrameType | None) -> None:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for terminal in self.terminals:  # drawing a bar there would fail before the state is saved
            os.dup2(nowhere, terminal)
        os.close(nowhere)
        self.number = self.number or number

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if self.number is not None and not self.patient:
            os._exit(128 + number)
        self.number = number
