"""The sentence frames of the bundled phrasebook, as `frames.yaml` lists them.  That file explains the templates."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from pathlib import Path

import yaml


@dataclass(frozen=True, slots=True)
class Field:
    """One {slot.form other +clitic} of a template."""

    slot: str
    form: str
    other: str
    clitics: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Frame:
    """A pair of templates, what fills their slots, and the two slots whose words the sentence is about."""

    name: str
    key: tuple[str, ...]
    pairs: int
    slots: tuple[tuple[tuple[str, ...], str], ...]  # one slot with its class, or two with their table of pairs
    english: tuple[str | Field, ...]
    spanish: tuple[str | Field, ...]


def _parse_template(template: str) -> tuple[str | Field, ...]:
    parts = re.split(r"[{}]", template)
    return tuple(_parse_field(part) if at % 2 else part for at, part in enumerate(parts))


def _parse_field(text: str) -> Field:
    head, *rest = text.split()
    slot, _, form = head.partition(".")
    other = next((word for word in rest if not word.startswith("+")), "")
    clitics = tuple(word[1:] for word in rest if word.startswith("+"))
    return Field(slot, form.replace("_", " "), other, clitics)


def _parse_slots(text: str) -> tuple[tuple[tuple[str, ...], str], ...]:
    entries = (entry.partition("=") for entry in text.split())
    return tuple((tuple(names.split(",")), source) for names, _, source in entries)


@functools.cache
def load_frames() -> tuple[Frame, ...]:
    text = Path(__file__).with_name("frames.yaml").read_text(encoding="utf-8")
    return tuple(
        Frame(
            name=row["name"],
            key=tuple(row["key"].split()),
            pairs=row["pairs"],
            slots=_parse_slots(row["slots"]),
            english=_parse_template(row["en"]),
            spanish=_parse_template(row["es"]),
        )
        for row in yaml.safe_load(text)
    )
