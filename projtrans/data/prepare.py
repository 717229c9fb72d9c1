"""The command `prepare`: a corpus becomes a data folder with splits, tokenizer and manifest.

    data/NAME/   manifest.json   {train,valid,test}.{src,tgt}   tokenizer.model (or tokenizer.{src,tgt}.model)
                 {train,valid,test}.ids   the pairs in pieces (encoding.py)

The folder is built beside its place and moved there at the end, so it is whole or as it was before. The text passes
through memory line by line. Knows no model; reports events through a callable and prints nothing.
"""

import contextlib
import dataclasses
import difflib
import importlib.metadata
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Literal

import numpy as np

from projtrans.data import phrasebook, tatoeba
from projtrans.data.corpus import (
    KNOWN,
    SPLITS,
    WINDOW,
    Corpus,
    CorpusConfig,
    Progress,
    SentenceHashes,
    Splits,
    collect,
    distinct,
    labels,
    leakage,
    parse_table,
    read_sides,
    read_table,
    split,
)
from projtrans.data.data_folder import (
    FORMAT,
    MANIFEST,
    Counts,
    LeakageReport,
    Manifest,
    SplitCounts,
    SplitReport,
    TokenizerReport,
    differences,
    load_manifest,
)
from projtrans.data.encoded_corpus import keep
from projtrans.data.events import Downloading, Report, Stage, Working
from projtrans.data.tokenizer import Tokenizer
from projtrans.errors import ConfigError, DataError
from projtrans.files import checksum, decode_lines, write_json, write_lines

Sides = Mapping[str, tuple[Path, Path]]


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
        sources, counts, splits = _read_and_split(config, origin, archive, folder.parent, report)
    else:
        sources, counts, splits = _read_ready_made(config, files, folder.parent, report)
    if config.backward:
        turned = {name: getattr(splits, name).turned() for name in SPLITS}
        splits = dataclasses.replace(splits, **turned)
    tokenizer = _train_tokenizer(config, splits, report)
    report(Stage(text="writing"))
    tokenizer.save(folder)
    for name in SPLITS:
        part: Corpus = getattr(splits, name)
        for ending, lines in (("src", part.sources), ("tgt", part.targets)):
            write_lines(folder / f"{name}.{ending}", _watched(lines, _progress("writing", len(lines), report)))
    manifest_files = {path.name: checksum(path) for path in sorted(folder.iterdir())}
    report(Stage(text="encoding"))
    for name in SPLITS:
        keep(folder, name, tokenizer, _progress("encoding", 2 * len(getattr(splits, name)), report))
    return Manifest(
        format=FORMAT,
        version=_version(),
        corpus=config.folder_name,
        origin=origin,
        config=config,
        sources=sources,
        counts=counts,
        splits=SplitReport(**{name: _split_counts(getattr(splits, name)) for name in SPLITS}),
        leakage=LeakageReport(**leakage(splits)),
        tokenizer=TokenizerReport(
            kind=tokenizer.kind,
            source_size=tokenizer.source_size,
            target_size=tokenizer.target_size,
            checksum=tokenizer.checksum,
        ),
        files=manifest_files,
    )


def _progress(text: str, total: int | None, report: Report) -> Progress:
    return lambda done: report(Working(text=text, done=done, total=total))


def _watched(lines: Iterable[str], report: Progress) -> Iterator[str]:
    for number, line in enumerate(lines, start=1):
        yield line
        if number % WINDOW == 0:
            report(number)


def _read_and_split(
    config: CorpusConfig, origin: str, archive: Path | None, room: Path, report: Report
) -> tuple[dict[str, str], Counts, Splits]:
    report(Stage(text=f"reading {config.name}"))
    reading = _progress("reading", None, report)
    groups: list[str] | None = None
    sources: dict[str, str] = {}
    if origin == "phrasebook":
        phrases = phrasebook.phrases()
        corpus = collect(((phrase.source, phrase.target) for phrase in phrases), origin, room)
        groups = [phrase.group for phrase in phrases]
    elif origin == "table":
        table = Path(config.name)
        corpus, sources = read_table(table, room, reading), {"table": checksum(table)}
    else:
        archive = tatoeba.find(archive, report=lambda done, total: report(Downloading(done=done, total=total)))
        data, name = tatoeba.pairs_file(archive)
        corpus, sources = parse_table(decode_lines(data, name), name, room, reading), {"archive": checksum(archive)}
    report(Stage(text=f"splitting {len(corpus):,} pairs"))
    read, blank, rows = len(corpus), corpus.blank, distinct(corpus.prints)
    corpus = corpus.take(rows)
    label_N = None if groups is None else labels(groups)[rows]
    try:
        splits = split(corpus, label_N, config.split, config.seed, _progress("splitting", len(rows), report))
    except DataError as error:
        raise DataError(f"{config.name}: {error}") from error
    return sources, _counts(read, blank, len(rows), splits), splits


def _read_ready_made(
    config: CorpusConfig, files: Sides, room: Path, report: Report
) -> tuple[dict[str, str], Counts, Splits]:
    """The splits as they are but for blank pairs: duplicates stay, as whoever made the splits wanted them."""
    report(Stage(text="reading ready-made splits"))
    parts = [read_sides(*files[name], room, _progress("reading", None, report)) for name in SPLITS]
    splits = Splits(train=parts[0], valid=parts[1], test=parts[2])
    prints = SentenceHashes(*map(np.concatenate, zip(*(part.prints for part in parts), strict=True)))
    blank = sum(part.blank for part in parts)
    return _side_checksums(files), _counts(len(prints.source), blank, len(distinct(prints)), splits), splits


def _train_tokenizer(config: CorpusConfig, splits: Splits, report: Report) -> Tokenizer:
    report(Stage(text=f"training the {config.tokenizer} tokenizer on {len(splits.train):,} pairs"))
    return Tokenizer.train(config.tokenizer, splits.train.sources, splits.train.targets, config.vocab_size)


def _counts(read: int, blank: int, different: int, splits: Splits) -> Counts:
    return Counts(
        read=read + blank,
        blank=blank,
        duplicates=read - different,
        kept=sum(len(getattr(splits, name)) for name in SPLITS),
        groups=splits.groups,
        largest_group=splits.largest_group,
    )


def _split_counts(part: Corpus) -> SplitCounts:
    sources, targets = (len(np.unique(column)) for column in part.prints[:2])
    return SplitCounts(pairs=len(part), distinct_sources=sources, distinct_targets=targets)


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
