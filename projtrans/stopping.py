"""Signals that ask a training to stop."""

import os
import signal
from types import FrameType
from typing import Any, Self


class StopSignals:
    """The first SIGINT or SIGTERM is remembered, so that training can save its state; the second one stops at once.

    patient: not even the second; torchrun may pass on a signal that a process has had already.
    """

    def __init__(self, patient: bool = False) -> None:
        self.patient = patient
        self.number: int | None = None
        self.before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM):
            self.before[number] = signal.signal(number, self._remember)
        return self

    def __exit__(self, *unused: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def __call__(self) -> int | None:
        return self.number

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if self.number is not None and not self.patient:
            os._exit(128 + number)
        self.number = number
