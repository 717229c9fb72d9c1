"""The corpora that go by a name, the file formats of a corpus, and how each is read.

A new corpus is a new entry of `CORPORA`, a new file format one of `FORMATS`. Readers yield sentence pairs as they stand
and know nothing of how pairs are checked, split or encoded.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from projtrans.data import phrasebook
from projtrans.data.events import Downloading, Report
from projtrans.errors import DataError
from projtrans.files import decode_lines, stream_lines

RawPair = tuple[str, str]

Direction = Literal["forward", "backward", "en-es", "es-en"]
"""The first two are for every corpus, the others for those of CORPORA that have both languages."""


@dataclass(frozen=True, kw_only=True)
class RawText:
    """The pairs of a corpus as they stand, and where they were found."""

    pairs: Iterable[RawPair]
    name: str  # stands in errors
    files: dict[str, Path] = field(default_factory=dict)  # what was read, by its role in manifest.json
    groups: Sequence[str] | None = None  # a label per pair (none of them blank) that a grouped split keeps together


@dataclass(frozen=True, kw_only=True)
class NamedCorpus:
    """What is known of a corpus beyond its text."""

    read: Callable[[Path | None, Report], RawText]  # called with the archive that the user names, if any
    configuration: str  # the shipped configuration made for it
    languages: tuple[str, str]  # of the first and of the second sentence of a pair
    examples: tuple[tuple[str, ...], tuple[str, ...]]  # prompts in both languages
    note: str  # for help texts


@dataclass(frozen=True, kw_only=True)
class Format:
    """A kind of file that holds a corpus."""

    origin: str  # in manifest.json
    read: Callable[[Path], Iterable[RawPair]]


# ---------------------------------------------------------------------------------------------------------- readers


def _read_phrasebook(_: Path | None, report: Report) -> RawText:
    phrases = phrasebook.phrases()
    pairs = [(phrase.source, phrase.target) for phrase in phrases]
    return RawText(pairs=pairs, name="phrasebook", groups=[phrase.group for phrase in phrases])


def _read_tatoeba(archive: Path | None, report: Report) -> RawText:
    from projtrans.data import tatoeba  # what it needs for downloading would slow every command's start

    archive = tatoeba.find(archive, report=lambda done, total: report(Downloading(done=done, total=total)))
    data, name = tatoeba.pairs_file(archive)
    return RawText(pairs=table_pairs(decode_lines(data, name), name), name=name, files={"archive": archive})


def read_table(path: Path) -> Iterator[RawPair]:
    """The pairs of a tab-separated file, plain or .gz; raises DataError for a line without a tab."""
    return table_pairs(stream_lines(path), str(path))


def table_pairs(lines: Iterable[str], name: str) -> Iterator[RawPair]:
    """The pairs in lines of source, tab, target; further columns are ignored. `name` stands in errors.

    Raises DataError for a line without a tab; a blank line is a blank pair.
    """
    for number, line in enumerate(lines, start=1):
        source, tab, rest = line.partition("\t")
        if not tab and line.strip():
            raise DataError(f"{name}:{number}: no tab in the line; expected SOURCE<tab>TARGET")
        yield source, rest.partition("\t")[0]


def parallel_pairs(source: Path, target: Path) -> Iterator[RawPair]:
    """The pairs of two parallel files, plain or .gz; raises DataError when their line counts differ."""
    left, right = stream_lines(source), stream_lines(target)
    for number, (one, other) in enumerate(itertools.zip_longest(left, right)):
        if one is None or other is None:
            longer = number + 1 + sum(1 for _ in (right if one is None else left))
            lines, others = (number, longer) if one is None else (longer, number)
            counts = f"{source} has {lines:,} lines, {target} has {others:,}"
            raise DataError(f"{counts}; line N of the one must translate line N of the other")
        yield one, other


# ------------------------------------------------------------------------------------------------------- the tables

_ENGLISH = (
    "Let me go alone.",  # the one prompt of Sanger 2026 that is known; the others are ours
    "My sister painted the kitchen door green.",
    "Where can I buy a ticket to the museum?",
    "The doctor told us to wait until Friday.",
    "We will not sell the house by the lake.",
    "Do you remember the song that he sang yesterday?",
)

_SPANISH = (
    "Dejadme ir sola a la estación.",
    "Mi hermana pintó de verde la puerta de la cocina.",
    "¿Dónde puedo comprar una entrada para el museo?",
    "El médico nos dijo que esperáramos hasta el viernes.",
    "No venderemos la casa del lago.",
    "¿Recuerdas la canción que él cantó ayer?",
)

CORPORA = {
    "phrasebook": NamedCorpus(
        read=_read_phrasebook,
        configuration="phrasebook",
        languages=("en", "es"),
        examples=(_ENGLISH, _SPANISH),
        note="bundled",
    ),
    "tatoeba-spa-eng": NamedCorpus(
        read=_read_tatoeba,
        configuration="tatoeba",
        languages=("en", "es"),
        examples=(_ENGLISH, _SPANISH),
        note="downloaded once",
    ),
}

BUNDLED = "phrasebook"
"""The corpus that is meant where none is named."""

FORMATS = {ending: Format(origin="table", read=read_table) for ending in (".tsv", ".tsv.gz")}
"""By the ending of the file's name."""

ENDINGS = " or ".join(FORMATS)

FILES = f"a tab-separated file whose name ends in {ENDINGS}"

KNOWN = " and ".join(CORPORA)

CHOICES = ", ".join(f"{name} ({corpus.note})" for name, corpus in CORPORA.items()) + f", a {ENDINGS} file"


def ending(name: str) -> str | None:
    """The ending of a name that is a corpus file; None for any other name."""
    return next((ending for ending in FORMATS if name.endswith(ending)), None)


def read(name: str, archive: Path | None, report: Report) -> RawText:
    """The named corpus, or the one in the file of this name; raises DataError for what cannot be read."""
    found = ending(name)
    if found is None:
        return CORPORA[name].read(archive, report)
    path, kind = Path(name), FORMATS[found]
    return RawText(pairs=kind.read(path), name=name, files={kind.origin: path})


def directions(name: str) -> dict[str, bool]:
    """The directions that a corpus of this name has, and whether each takes the second sentences as sources."""
    found = {"forward": False, "backward": True}
    if name in CORPORA:
        first, second = CORPORA[name].languages
        found |= {f"{first}-{second}": False, f"{second}-{first}": True}
    return found


def examples(name: str, direction: str) -> tuple[str, ...]:
    """Sentences to try a model of this corpus with; empty where its languages are not known."""
    return CORPORA[name].examples[directions(name)[direction]] if name in CORPORA else ()


def shipped_configuration(name: str) -> str | None:
    """The name of the shipped configuration that is made for a corpus."""
    return CORPORA[name].configuration if name in CORPORA else None
