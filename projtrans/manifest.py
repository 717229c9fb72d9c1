"""manifest.json of a data folder: where its pairs come from, how many there are, and whether they are the ones wanted.

Knows no text; prepare.py writes it.
"""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from projtrans.config import build
from projtrans.corpus import KNOWN, CorpusConfig, Leakage
from projtrans.errors import ConfigError, DataError

FORMAT = 1
MANIFEST = "manifest.json"


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Pairs of the corpus as read, and what became of them; ready-made splits keep their duplicates."""

    read: int
    blank: int
    duplicates: int
    kept: int
    groups: int | None
    largest_group: int | None


@dataclass(frozen=True, kw_only=True)
class SplitCounts:
    """The size of one split."""

    pairs: int
    distinct_sources: int
    distinct_targets: int


@dataclass(frozen=True, kw_only=True)
class SplitReport:
    """The sizes of all splits."""

    train: SplitCounts
    valid: SplitCounts
    test: SplitCounts


@dataclass(frozen=True, kw_only=True)
class LeakageReport:
    """What of the held-out splits stands in the training split."""

    valid: Leakage
    test: Leakage


@dataclass(frozen=True, kw_only=True)
class TokenizerReport:
    """The tokenizer as trained; a small corpus fills less than the vocabulary asked for."""

    kind: str
    source_size: int
    target_size: int
    checksum: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """manifest.json: where a data folder comes from and what is in it."""

    format: int
    version: str
    corpus: str
    origin: str  # phrasebook, tatoeba-spa-eng, table or sides
    config: CorpusConfig
    sources: dict[str, str]  # checksum of every file that the pairs were read from
    counts: Counts
    splits: SplitReport
    leakage: LeakageReport
    tokenizer: TokenizerReport
    files: dict[str, str]  # checksum of every file in the folder


def load_manifest(folder: Path) -> Manifest:
    """The manifest of a prepared folder; raises DataError when there is none, or none that this version reads."""
    path = folder / MANIFEST
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{folder}: no prepared corpus ({MANIFEST} is missing); run projtrans prepare") from error
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise DataError(f"{path}: damaged, not JSON ({error}); prepare again with --force") from error
    found = raw.get("format") if isinstance(raw, dict) else None
    if found != FORMAT:
        raise DataError(f"{path}: format {found!r}, this version reads {FORMAT}; prepare again with --force")
    return _manifest(raw, path)


def _manifest(raw: dict[str, Any], path: Path) -> Manifest:
    try:
        missing = [field.name for field in dataclasses.fields(Manifest) if field.name not in raw]
        if missing:
            raise ConfigError(f"no {', '.join(missing)}")
        return build(Manifest, raw)
    except (ConfigError, TypeError) as error:  # TypeError: a field of a section is missing
        raise DataError(f"{path}: damaged ({error}); prepare again with --force") from error


def differences(manifest: Manifest, config: CorpusConfig) -> list[str]:
    """Where the prepared data are not what the configuration asks for, in words.

    `max_length` and `overlong` act in training and leave the folder as it is; `split` and `seed` do nothing to
    ready-made splits.
    """
    there, wanted = _essence(manifest.config), _essence(config)
    if _same_corpus(manifest.config, config):
        del there["corpus"]
    keys = [key for key in there if not (manifest.origin == "sides" and key in ("split", "seed"))]
    return [
        f"{key} is {there[key]}, the configuration asks for {wanted[key]}" for key in keys if there[key] != wanted[key]
    ]


def _essence(config: CorpusConfig) -> dict[str, object]:
    return {
        "corpus": config.name,
        "direction": "backward" if config.backward else "forward",
        "split": config.split,
        "seed": config.seed,
        "tokenizer": config.tokenizer,
        "vocab_size": config.vocab_size,
    }


def _same_corpus(there: CorpusConfig, wanted: CorpusConfig) -> bool:
    """A table may be named by its file or by its folder; the named corpora by their names only."""
    if there.name in KNOWN or wanted.name in KNOWN:
        return there.name == wanted.name
    return there.folder_name == wanted.folder_name
