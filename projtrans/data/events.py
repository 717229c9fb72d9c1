"""What `prepare` reports while it works."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Stage:
    """The stage that begins now, in words."""

    text: str


@dataclass(frozen=True, kw_only=True)
class Downloading:
    """Bytes of the archive received, and bytes in total."""

    done: int
    total: int


@dataclass(frozen=True, kw_only=True)
class Working:
    """Pairs or sentences done in the current stage, and their total (None: not known yet)."""

    text: str
    done: int
    total: int | None


Event = Stage | Downloading | Working
Report = Callable[[Event], None]
