"""A data folder, read: its manifest, splits and tokenizer, and whether it is what a configuration asks for.

    data/NAME/   manifest.json   {train,valid,test}.{src,tgt}   tokenizer.model (or tokenizer.{src,tgt}.model)
                 {train,valid,test}.ids   the pairs as token ids (encoded_corpus.py)

Knows nothing of where pairs come from; prepare.py writes the folder.
"""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from projtrans.config import build
from projtrans.data.corpora import CORPORA
from projtrans.data.corpus import SPLITS, CorpusConfig, Pair, read_parallel
from projtrans.data.encoded_corpus import Prepared, open_prepared
from projtrans.data.events import Report, Stage, Working
from projtrans.data.splitting import Leakage
from projtrans.data.tokenizer import Tokenizer
from projtrans.errors import ConfigError, DataError

FORMAT = 1
MANIFEST = "manifest.json"

READY_MADE = "sides"
"""The origin of ready-made splits in the manifest."""


# --------------------------------------------------------------------------------------------------- the manifest


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
    """How much of the held-out splits occurs in the training split."""

    valid: Leakage
    test: Leakage


@dataclass(frozen=True, kw_only=True)
class TokenizerReport:
    """The tokenizer as trained; a small corpus may not fill the vocabulary asked for."""

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
    origin: str  # READY_MADE, the origin of a file format, or the name of a named corpus
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
    """In words, where the prepared data are not what the configuration asks for.

    `max_length` and `overlong` apply in training and leave the folder as it is; `split` and `seed` do not affect
    ready-made splits.
    """
    found, wanted = _essence(manifest.config), _essence(config)
    if _same_corpus(manifest.config, config):
        del found["corpus"]
    keys = [key for key in found if not (manifest.origin == READY_MADE and key in ("split", "seed"))]
    return [
        f"{key} is {found[key]}, the configuration asks for {wanted[key]}" for key in keys if found[key] != wanted[key]
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


def _same_corpus(found: CorpusConfig, wanted: CorpusConfig) -> bool:
    """A table may be named by its file or by its folder; the named corpora by their names only."""
    if found.name in CORPORA or wanted.name in CORPORA:
        return found.name == wanted.name
    return found.folder_name == wanted.folder_name


# ----------------------------------------------------------------------------------------------------- the folder


def default_folder(config: CorpusConfig, root: Path = Path("data")) -> Path:
    """Where the corpus is prepared by default; a name with a `/` that is not a corpus file is a folder itself."""
    if config.folder is not None:
        return Path(config.folder)
    if "/" in config.name and config.ending is None:
        return Path(config.name)
    return root / config.folder_name


def read_split(folder: Path, name: str) -> list[Pair]:
    """The pairs of one split (train, valid or test) in the order of its files."""
    return list(read_parallel(folder / f"{name}.src", folder / f"{name}.tgt"))


def open_splits(folder: Path, tokenizer: Tokenizer, report: Report) -> dict[str, Prepared]:
    """The splits with their encodings, all of them on the disk; an encoding that does not fit is made anew.

    Raises DataError where there is no prepared corpus.
    """

    def encoding(done: int, total: int) -> None:
        report(Working(text="encoding", done=done, total=total))

    def note(text: str) -> None:
        report(Stage(text=text))

    return {name: open_prepared(folder, name, tokenizer, encoding, note) for name in SPLITS}


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a prepared folder; raises DataError when it is not the one recorded in the manifest."""
    tokenizer, manifest = Tokenizer.load(folder), load_manifest(folder)
    if tokenizer.checksum != manifest.tokenizer.checksum:
        names = ", ".join(tokenizer.file_names)
        raise DataError(f"{folder}: {names} changed since prepared; prepare again with --force")
    return tokenizer
