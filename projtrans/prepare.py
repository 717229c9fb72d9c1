"""The command `prepare`: a corpus becomes a data folder with splits, tokenizer and manifest.

    data/NAME/   manifest.json   {train,valid,test}.{src,tgt}   tokenizer.model (or tokenizer.{src,tgt}.model)

The folder is built beside its place and moved there at the end, so it is whole or as it was before. Knows no model;
reports events through a callable and prints nothing.
"""

import contextlib
import dataclasses
import difflib
import importlib.metadata
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from projtrans import phrasebook, tatoeba
from projtrans.config import build
from projtrans.corpus import (
    KNOWN,
    SPLITS,
    Corpus,
    CorpusConfig,
    Leakage,
    Pair,
    Splits,
    leakage,
    parse_table,
    read_sides,
    read_table,
    split,
)
from projtrans.errors import ConfigError, DataError
from projtrans.files import checksum, decode_lines, write_json, write_lines
from projtrans.tokenizer import Tokenizer

FORMAT = 1
MANIFEST = "manifest.json"

Sides = Mapping[str, tuple[Path, Path]]


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What is being done now, in words."""

    text: str


@dataclass(frozen=True, kw_only=True)
class Downloading:
    """Bytes of the archive that have come, and bytes in all."""

    done: int
    total: int


Event = Stage | Downloading
Report = Callable[[Event], None]


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


# -------------------------------------------------------------------------------------------------------- preparing


def prepare(
    config: CorpusConfig,
    folder: Path,
    *,
    archive: Path | None = None,
    files: Sides | None = None,
    force: bool = False,
    report: Report = lambda event: None,
) -> Manifest:
    """Prepare the corpus in `folder`, or find it prepared there already.

    `files` gives ready-made splits: source and target file for each of train, valid and test. Raises ConfigError when
    the folder holds something else and `force` is not set, DataError for what is wrong with the files.
    """
    config = named(config, files)
    if not force and (folder / MANIFEST).exists():
        return _as_prepared(config, folder, archive, files)
    _refuse_foreign(folder)
    origin = _origin(config, folder, files)
    with _building(folder) as built:
        manifest = _build(config, origin, built, archive, files, report)
        write_json(built / MANIFEST, dataclasses.asdict(manifest))
    return manifest


def named(config: CorpusConfig, files: Sides | None) -> CorpusConfig:
    """The configuration under the name that its data go by: ready-made splits take that of their training source."""
    if files is None or config.name not in KNOWN:
        return config
    name = files["train"][0].name.removesuffix(".gz").partition(".")[0]
    direction: Literal["forward", "backward"] = "backward" if config.backward else "forward"
    return dataclasses.replace(config, name="custom" if name in ("", *SPLITS, *KNOWN) else name, direction=direction)


def default_folder(config: CorpusConfig, root: Path = Path("data")) -> Path:
    """Where the corpus is prepared unless told otherwise; a name with a `/` that is no table is a folder itself."""
    if config.folder is not None:
        return Path(config.folder)
    if "/" in config.name and not config.is_table:
        return Path(config.name)
    return root / config.folder_name


def _origin(config: CorpusConfig, folder: Path, files: Sides | None) -> str:
    """Where the pairs come from: a known corpus, a table, or the two sides of ready-made splits."""
    if files is not None:
        return "sides"
    if config.is_table:
        return "table"
    if config.name in KNOWN:
        return config.name
    raise ConfigError(f"corpus '{config.name}': {_unknown(config.name, folder)}")


def _unknown(name: str, folder: Path) -> str:
    """Why there is nothing to prepare a corpus of this name from."""
    if (folder / MANIFEST).exists():
        return f"{folder} does not say where its files are; name them again (a .tsv file, or --train, --valid, --test)"
    if Path(name).is_file():
        return "not a corpus file; it must be tab-separated and its name must end in .tsv or .tsv.gz"
    close = difflib.get_close_matches(name, KNOWN, n=1, cutoff=0.5)
    meant = f"did you mean {close[0]}?" if close else f"known are {' and '.join(KNOWN)}"
    return f"neither known nor prepared in {folder}; {meant} (a file must end in .tsv or .tsv.gz)"


def _build(
    config: CorpusConfig, origin: str, folder: Path, archive: Path | None, files: Sides | None, report: Report
) -> Manifest:
    if files is None:
        sources, read, splits = _read_and_split(config, origin, archive, report)
    else:
        sources, read, splits = _read_ready_made(config, files, report)
    tokenizer = _train_tokenizer(config, splits, report)
    report(Stage(text="writing"))
    tokenizer.save(folder)
    for name in SPLITS:
        pairs: list[Pair] = getattr(splits, name)
        write_lines(folder / f"{name}.src", (pair.source for pair in pairs))
        write_lines(folder / f"{name}.tgt", (pair.target for pair in pairs))
    return Manifest(
        format=FORMAT,
        version=_version(),
        corpus=config.folder_name,
        origin=origin,
        config=config,
        sources=sources,
        counts=_counts(read, splits),
        splits=SplitReport(**{name: _split_counts(getattr(splits, name)) for name in SPLITS}),
        leakage=LeakageReport(**leakage(splits)),
        tokenizer=TokenizerReport(
            kind=tokenizer.kind,
            source_size=tokenizer.source_size,
            target_size=tokenizer.target_size,
            checksum=tokenizer.checksum,
        ),
        files={path.name: checksum(path) for path in sorted(folder.iterdir())},
    )


def _read_and_split(
    config: CorpusConfig, origin: str, archive: Path | None, report: Report
) -> tuple[dict[str, str], Corpus, Splits]:
    report(Stage(text=f"reading {config.name}"))
    groups: list[str] | None = None
    sources: dict[str, str] = {}
    if origin == "phrasebook":
        phrases = phrasebook.phrases()
        corpus = Corpus(pairs=[Pair(phrase.source, phrase.target) for phrase in phrases])
        groups = [phrase.group for phrase in phrases]
    elif origin == "table":
        corpus, sources = read_table(Path(config.name)), {"table": checksum(Path(config.name))}
    else:
        archive = tatoeba.find(archive, report=lambda done, total: report(Downloading(done=done, total=total)))
        data, name = tatoeba.pairs_file(archive)
        corpus, sources = parse_table(decode_lines(data, name), name), {"archive": checksum(archive)}
    report(Stage(text=f"splitting {len(corpus.pairs):,} pairs"))
    first: dict[Pair, int] = {}
    for index, pair in enumerate(corpus.pairs):
        first.setdefault(pair, index)
    labels = groups and [groups[index] for index in first.values()]
    try:
        splits = split(list(first), labels, config.split, config.seed)
    except DataError as error:
        raise DataError(f"{config.name}: {error}") from error
    return sources, corpus, splits.turned() if config.backward else splits


def _read_ready_made(config: CorpusConfig, files: Sides, report: Report) -> tuple[dict[str, str], Corpus, Splits]:
    """The splits as they are but for blank pairs: duplicates stay, as whoever made the splits wanted them."""
    report(Stage(text="reading ready-made splits"))
    corpora = {name: read_sides(*files[name]) for name in SPLITS}
    everything = Corpus(
        pairs=[pair for name in SPLITS for pair in corpora[name].pairs],
        blank=sum(corpus.blank for corpus in corpora.values()),
    )
    splits = Splits(train=corpora["train"].pairs, valid=corpora["valid"].pairs, test=corpora["test"].pairs)
    return _side_checksums(files), everything, splits.turned() if config.backward else splits


def _train_tokenizer(config: CorpusConfig, splits: Splits, report: Report) -> Tokenizer:
    report(Stage(text=f"training the {config.tokenizer} tokenizer on {len(splits.train):,} pairs"))
    sources, targets = [pair.source for pair in splits.train], [pair.target for pair in splits.train]
    return Tokenizer.train(config.tokenizer, sources, targets, config.vocab_size)


def _counts(read: Corpus, splits: Splits) -> Counts:
    return Counts(
        read=len(read.pairs) + read.blank,
        blank=read.blank,
        duplicates=read.duplicates,
        kept=sum(len(getattr(splits, name)) for name in SPLITS),
        groups=splits.groups,
        largest_group=splits.largest_group,
    )


def _split_counts(pairs: Sequence[Pair]) -> SplitCounts:
    sources, targets = {pair.source for pair in pairs}, {pair.target for pair in pairs}
    return SplitCounts(pairs=len(pairs), distinct_sources=len(sources), distinct_targets=len(targets))


def _version() -> str:
    try:
        return importlib.metadata.version("projtrans")
    except importlib.metadata.PackageNotFoundError:  # run from a checkout that is not installed
        return "unknown"


# ------------------------------------------------------------------------------------- what stands there, and moving


def _as_prepared(config: CorpusConfig, folder: Path, archive: Path | None, files: Sides | None) -> Manifest:
    """The manifest of a folder that already holds this very corpus, whole."""
    manifest = load_manifest(folder)
    different = [*differences(manifest, config), *_source_differences(manifest, config, archive, files)]
    if different:
        ways = "--force prepares it anew, -o DIR keeps both"
        raise ConfigError(f"{folder} is prepared differently: {'; '.join(different)}; {ways}")
    damaged = [name for name, digest in manifest.files.items() if not _agrees(folder / name, digest)]
    if damaged:
        raise DataError(f"{folder}: {', '.join(damaged)} missing or changed since prepared; --force prepares it anew")
    return manifest


def _agrees(path: Path, digest: str) -> bool:
    try:
        return checksum(path) == digest
    except OSError:
        return False


def _source_differences(
    manifest: Manifest, config: CorpusConfig, archive: Path | None, files: Sides | None
) -> Iterator[str]:
    """Where the files named now are not those that were prepared; a file not named, or gone, is not compared."""
    named_now: dict[str, Path] = {}
    if files is not None:
        named_now = _side_paths(files)
    elif config.is_table:
        named_now = {"table": Path(config.name)}
    elif archive is not None:
        named_now = {"archive": archive}
    if manifest.origin == "sides" and files is None and config.is_table:
        yield "it was made from ready-made splits"
        return
    for role, path in named_now.items():
        if not path.is_file():
            raise DataError(f"{path}: no such file")
        if manifest.sources.get(role) != checksum(path):
            yield f"{path} is not the {role} file it was made from"


def _side_paths(files: Sides) -> dict[str, Path]:
    return {f"{name}.{side}": path for name in SPLITS for side, path in zip(("src", "tgt"), files[name], strict=True)}


def _side_checksums(files: Sides) -> dict[str, str]:
    return {role: checksum(path) for role, path in _side_paths(files).items()}


def _refuse_foreign(folder: Path) -> None:
    """Never replace what is no data folder, whatever the flags say."""
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder}: a file is in the way; choose another folder with -o")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / MANIFEST).exists():
        raise ConfigError(f"{folder}: holds other things than a prepared corpus; choose another folder with -o")


@contextlib.contextmanager
def _building(folder: Path) -> Iterator[Path]:
    """A new folder beside `folder`, which takes its place on leaving without an error and is removed otherwise."""
    try:
        place = folder.resolve()  # renaming a link would leave the link where the folder was
        place.parent.mkdir(parents=True, exist_ok=True)
        room = Path(tempfile.mkdtemp(prefix=f".{place.name}.", dir=place.parent))
        try:
            (room / "new").mkdir()  # mkdtemp is closed to others, what is made by mkdir follows the umask
            yield room / "new"
            _exchange(room / "new", place, room / "old")
        finally:
            shutil.rmtree(room, ignore_errors=True)
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        raise DataError(f"cannot write {folder}: {error.strerror or error}{where}") from error


def _exchange(new: Path, folder: Path, old: Path) -> None:
    try:
        if folder.exists():
            folder.rename(old)
        new.rename(folder)
    except BaseException:
        if old.exists() and not folder.exists():
            old.rename(folder)
        raise


# ---------------------------------------------------------------------------------------------------------- reading


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


def read_split(folder: Path, name: str) -> list[Pair]:
    """The pairs of one split (train, valid or test) in the order of its files."""
    return read_sides(folder / f"{name}.src", folder / f"{name}.tgt").pairs


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a prepared folder; raises DataError when it is not the one that the manifest tells of."""
    tokenizer, manifest = Tokenizer.load(folder), load_manifest(folder)
    if tokenizer.checksum != manifest.tokenizer.checksum:
        names = ", ".join(tokenizer.file_names)
        raise DataError(f"{folder}: {names} changed since prepared; prepare again with --force")
    return tokenizer


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
