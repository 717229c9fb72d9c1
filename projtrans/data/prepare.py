"""The command `prepare`: a corpus becomes a data folder with splits, tokenizer and manifest (data_folder.py).

The folder is built beside its place and moved there at the end, so it is complete or as it was before. The text passes
through memory line by line. Knows no model; reports events through a callable and prints nothing.
"""

import difflib
import importlib.metadata
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from projtrans.config import build, find, read_yaml
from projtrans.data import corpora
from projtrans.data.corpora import CORPORA, FORMATS
from projtrans.data.corpus import (
    SPLITS,
    Corpus,
    CorpusConfig,
    Progress,
    SentenceHashes,
    collect,
    hashed,
    read_parallel,
    watched,
)
from projtrans.data.data_folder import (
    FORMAT,
    MANIFEST,
    READY_MADE,
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
from projtrans.data.events import Report, Stage, Working
from projtrans.data.splitting import Splits, distinct, leakage, split
from projtrans.data.tokenizer import Tokenizer
from projtrans.errors import ConfigError, DataError
from projtrans.files import checksum, replacing_folder, write_json, write_lines

ReadyMade = Mapping[str, tuple[Path, Path]]
"""Source and target file of each of train, valid and test."""


# -------------------------------------------------------------------------------------------------- what is wanted


def wanted(config_name: str | None, flags: dict[str, Any], files: ReadyMade | None) -> CorpusConfig:
    """The corpus section of a configuration (by default the one shipped for the corpus), with flags on top.

    Where nothing is named and no ready-made splits are given, the bundled corpus is meant.
    """
    corpus = flags.get("name", corpora.BUNDLED if files is None else "")
    name = config_name or corpora.shipped_configuration(corpus)
    section = read_yaml(find(name)).get("corpus") if name else {}
    raw = section | flags if isinstance(section, dict) else section or flags
    return named(build(CorpusConfig, raw, "corpus"), files)


def named(config: CorpusConfig, files: ReadyMade | None) -> CorpusConfig:
    """The configuration under the name of its data: ready-made splits are called after their training source."""
    if files is None or config.name not in CORPORA:
        return config
    name = files["train"][0].name.removesuffix(".gz").partition(".")[0]
    own = name not in ("", *SPLITS, *CORPORA)
    return replace(config, name=name if own else "custom", direction="backward" if config.backward else "forward")


# -------------------------------------------------------------------------------------------------------- preparing


def prepare(
    config: CorpusConfig,
    folder: Path,
    *,
    archive: Path | None = None,
    files: ReadyMade | None = None,
    force: bool = False,
    report: Report = lambda event: None,
) -> Manifest:
    """Prepare the corpus in `folder`, or find it prepared there already.

    `files` gives ready-made splits. Raises ConfigError when the folder holds something else and `force` is not set,
    DataError for what is wrong with the files.
    """
    config = named(config, files)
    if not force and (folder / MANIFEST).exists():
        return _as_prepared(config, folder, archive, files)
    _refuse_foreign(folder)
    origin = _origin(config, folder, files)
    with replacing_folder(folder) as built:
        if files is None:
            sources, counts, splits = _read_and_split(config, archive, built.parent, report)
        else:
            sources, counts, splits = _read_ready_made(files, built.parent, report)
        if config.backward:
            splits = splits.swapped()
        tokenizer = _train_tokenizer(config, splits, report)
        manifest = Manifest(
            format=FORMAT,
            version=_version(),
            corpus=config.folder_name,
            origin=origin,
            config=config,
            sources=sources,
            counts=counts,
            splits=SplitReport(**{name: _split_counts(part) for name, part in splits.by_name().items()}),
            leakage=LeakageReport(**leakage(splits)),
            tokenizer=_tokenizer_report(tokenizer),
            files=_write(built, splits, tokenizer, report),
        )
        write_json(built / MANIFEST, asdict(manifest))
    return manifest


def _origin(config: CorpusConfig, folder: Path, files: ReadyMade | None) -> str:
    """Where the pairs come from: a named corpus, a file, or ready-made splits."""
    if files is not None:
        return READY_MADE
    if config.ending is not None:
        return FORMATS[config.ending].origin
    if config.name in CORPORA:
        return config.name
    raise ConfigError(f"corpus '{config.name}': {_unknown(config.name, folder)}")


def _unknown(name: str, folder: Path) -> str:
    """Why there is nothing to prepare a corpus of this name from."""
    if (folder / MANIFEST).exists():
        return f"{folder} does not say where its files are; name them again (a .tsv file, or --train, --valid, --test)"
    if Path(name).is_file():
        return f"not a corpus file; it must be {corpora.FILES}"
    close = difflib.get_close_matches(name, CORPORA, n=1, cutoff=0.5)
    meant = f"did you mean {close[0]}?" if close else f"known are {corpora.KNOWN}"
    return f"neither known nor prepared in {folder}; {meant} (a file must end in {corpora.ENDINGS})"


def _read_and_split(
    config: CorpusConfig, archive: Path | None, room: Path, report: Report
) -> tuple[dict[str, str], Counts, Splits]:
    """Checksums of the files that were read, what became of their pairs, and the splits."""
    report(Stage(text=f"reading {config.name}"))
    text = corpora.read(config.name, archive, report)
    corpus = collect(text.pairs, text.name, room, _progress("reading", None, report))
    report(Stage(text=f"splitting {len(corpus):,} pairs"))
    read, blank, rows = len(corpus), corpus.blank, distinct(corpus.hashes)
    corpus = corpus.take(rows)
    label_N = None if text.groups is None else hashed(text.groups)[rows]
    try:
        splits = split(corpus, label_N, config.split, config.seed, _progress("splitting", len(rows), report))
    except DataError as error:
        raise DataError(f"{config.name}: {error}") from error
    return _checksums(text.files), _counts(read, blank, len(rows), splits), splits


def _read_ready_made(files: ReadyMade, room: Path, report: Report) -> tuple[dict[str, str], Counts, Splits]:
    """The splits as they are but for blank pairs: duplicates stay, since the user chose them."""
    report(Stage(text="reading ready-made splits"))
    parts = [read_parallel(*files[name], room, _progress("reading", None, report)) for name in SPLITS]
    splits = Splits(train=parts[0], valid=parts[1], test=parts[2])
    hashes = SentenceHashes(*map(np.concatenate, zip(*(part.hashes for part in parts), strict=True)))
    blank = sum(part.blank for part in parts)
    counts = _counts(len(hashes.source), blank, len(distinct(hashes)), splits)
    return _checksums(_by_role(files)), counts, splits


def _train_tokenizer(config: CorpusConfig, splits: Splits, report: Report) -> Tokenizer:
    report(Stage(text=f"training the {config.tokenizer} tokenizer on {len(splits.train):,} pairs"))
    return Tokenizer.train(config.tokenizer, splits.train.sources, splits.train.targets, config.vocab_size)


def _write(folder: Path, splits: Splits, tokenizer: Tokenizer, report: Report) -> dict[str, str]:
    """Write tokenizer, text and encodings; returns the checksums of all files but the encodings."""
    report(Stage(text="writing"))
    tokenizer.save(folder)
    for name, part in splits.by_name().items():
        for ending, lines in (("src", part.sources), ("tgt", part.targets)):
            write_lines(folder / f"{name}.{ending}", watched(lines, _progress("writing", len(lines), report)))
    checksums = _checksums({path.name: path for path in sorted(folder.iterdir())})
    report(Stage(text="encoding"))
    for name, part in splits.by_name().items():
        keep(folder, name, tokenizer, _progress("encoding", 2 * len(part), report))
    return checksums


def _progress(text: str, total: int | None, report: Report) -> Progress:
    return lambda done: report(Working(text=text, done=done, total=total))


def _checksums(paths: Mapping[str, Path]) -> dict[str, str]:
    return {role: checksum(path) for role, path in paths.items()}


def _by_role(files: ReadyMade) -> dict[str, Path]:
    """The files of ready-made splits by their name in the manifest: train.src, train.tgt, valid.src, ..."""
    return {f"{name}.{role}": path for name in SPLITS for role, path in zip(("src", "tgt"), files[name], strict=True)}


def _counts(read: int, blank: int, different: int, splits: Splits) -> Counts:
    return Counts(
        read=read + blank,
        blank=blank,
        duplicates=read - different,
        kept=sum(map(len, splits.by_name().values())),
        groups=splits.groups,
        largest_group=splits.largest_group,
    )


def _split_counts(part: Corpus) -> SplitCounts:
    sources, targets = (len(np.unique(column)) for column in part.hashes[:2])
    return SplitCounts(pairs=len(part), distinct_sources=sources, distinct_targets=targets)


def _tokenizer_report(tokenizer: Tokenizer) -> TokenizerReport:
    return TokenizerReport(
        kind=tokenizer.kind,
        source_size=tokenizer.source_size,
        target_size=tokenizer.target_size,
        checksum=tokenizer.checksum,
    )


def _version() -> str:
    try:
        return importlib.metadata.version("projtrans")
    except importlib.metadata.PackageNotFoundError:  # run from a checkout that is not installed
        return "unknown"


# -------------------------------------------------------------------------------------------- what the folder holds


def _as_prepared(config: CorpusConfig, folder: Path, archive: Path | None, files: ReadyMade | None) -> Manifest:
    """The manifest of a folder that already holds this very corpus, complete; raises an error for any other."""
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
    manifest: Manifest, config: CorpusConfig, archive: Path | None, files: ReadyMade | None
) -> Iterator[str]:
    """Where the files named now are not those that were prepared; an archive that is not named is not compared."""
    given: dict[str, Path] = {}
    if files is not None:
        given = _by_role(files)
    elif config.ending is not None:
        given = {FORMATS[config.ending].origin: Path(config.name)}
    elif archive is not None:
        given = {"archive": archive}
    if manifest.origin == READY_MADE and files is None and config.ending is not None:
        yield "it was made from ready-made splits"
        return
    for role, path in given.items():
        if not path.is_file():
            raise DataError(f"{path}: no such file")
        if manifest.sources.get(role) != checksum(path):
            yield f"{path} is not the {role} file it was made from"


def _refuse_foreign(folder: Path) -> None:
    """Never replace anything but a data folder, whatever the flags say."""
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder}: a file is in the way; choose another folder with -o")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / MANIFEST).exists():
        raise ConfigError(f"{folder}: holds other things than a prepared corpus; choose another folder with -o")
