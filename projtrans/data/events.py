"""What `prepare` reports while it works."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What is being done now, in words."""

    text: str


@dataclass(frozen=True, kw_only=True)
class Downloading:
    """Bytes of the archive that have come, and bytes in all."""

    done: int
    total: int


@dataclass(frozen=True, kw_only=True)
class Working:
    """Pairs or sentences that are done in the present stage, and all (None: nobody knows yet)."""

    text: str
    done: int
    total: int | None


Event = Stage | Downloading | Working

Report = Callable[[Event], None]
