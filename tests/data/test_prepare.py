"""Data folders: what is written, found again, refused and left as it was."""

import dataclasses
import os
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

from projtrans import files
from projtrans.config import build
from projtrans.data import corpus, data_folder, prepare, splitting, tatoeba
from projtrans.data.corpus import CorpusConfig, Pair
from projtrans.data.events import Event, Stage, Working
from projtrans.data.splitting import Leakage
from projtrans.errors import ConfigError, DataError, ProjtransError
from tests.data.cases import CONFIG, PAIRS, ready_made

pytestmark = pytest.mark.usefixtures("small_phrasebook")


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "news.tsv"
    files.write_lines(path, [f"{source}\t{target}" for source, target in PAIRS])
    return path


def config_of(kind: str) -> CorpusConfig:
    return build(CorpusConfig, {"tokenizer": kind, "vocab_size": 400})


def snapshot(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}


# ---------------------------------------------------------------------------------------------------- what is written


@pytest.mark.parametrize("kind", ["bpe", "unigram", "word"])
def test_the_folder_holds_what_the_manifest_says(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "data" / "phrasebook"
    events: list[Event] = []
    config = config_of(kind)
    manifest = prepare.prepare(config, folder, report=events.append)
    models = ["tokenizer.src.model", "tokenizer.tgt.model"] if kind == "word" else ["tokenizer.model"]
    texts = [f"{name}.{side}" for name in corpus.SPLITS for side in ("src", "tgt")]
    encodings = [f"{name}.ids" for name in corpus.SPLITS]
    assert sorted(path.name for path in folder.iterdir()) == sorted(["manifest.json", *models, *texts, *encodings])
    assert manifest.files == {name: files.checksum(folder / name) for name in [*models, *texts]}
    assert data_folder.load_manifest(folder) == manifest
    assert manifest.config == config
    assert list((tmp_path / "data").iterdir()) == [folder]
    stages = [event.text.split()[0] for event in events if isinstance(event, Stage)]
    assert stages == ["reading", "splitting", "training", "writing", "encoding"]
    counted = [event for event in events if isinstance(event, Working)]
    assert len(events) == len(stages) + len(counted)
    assert all(event.total is None or 0 < event.done <= event.total for event in counted)


def test_the_splits_are_those_of_the_corpus(tmp_path: Path) -> None:
    manifest = prepare.prepare(CONFIG, tmp_path / "data")
    read = {name: data_folder.read_split(tmp_path / "data", name) for name in corpus.SPLITS}
    assert sorted(pair for pairs in read.values() for pair in pairs) == sorted(PAIRS)
    labels = corpus.hashed(pair.source[:11] for pair in PAIRS)
    assert read["test"] == list(splitting.split(corpus.collect(PAIRS, "pairs"), labels, "grouped", 1).test)
    assert dataclasses.asdict(manifest.splits) == {
        name: {"pairs": len(pairs), "distinct_sources": len(pairs), "distinct_targets": len(pairs)}
        for name, pairs in read.items()
    }
    assert manifest.leakage.test == Leakage(source=0, target=0, either=0, both=0)
    assert (manifest.counts.read, manifest.counts.kept, manifest.counts.groups) == (200, 200, 20)


def test_backward_swaps_source_and_target_and_nothing_else(tmp_path: Path) -> None:
    prepare.prepare(CONFIG, tmp_path / "forward")
    prepare.prepare(dataclasses.replace(CONFIG, direction="es-en"), tmp_path / "backward")
    for name in corpus.SPLITS:
        swapped = [Pair(target, source) for source, target in data_folder.read_split(tmp_path / "forward", name)]
        assert data_folder.read_split(tmp_path / "backward", name) == swapped


@pytest.mark.parametrize("kind", ["bpe", "unigram", "word"])
def test_the_tokenizer_learns_from_the_training_split_only(tmp_path: Path, kind: str) -> None:
    files_of, marks = ready_made(tmp_path), {"train": "ωωω", "valid": "ζζζ", "test": "ψψψ"}
    for name, mark in marks.items():
        lines = files.read_lines(files_of[name][0])
        files.write_lines(files_of[name][0], [f"{line} {mark}" if line else "" for line in lines])
    prepare.prepare(config_of(kind), tmp_path / "data", files=files_of)
    tokenizer = data_folder.load_tokenizer(tmp_path / "data")
    tokens = tokenizer.source_tokens(range(tokenizer.source_size))
    assert any("ω" in token for token in tokens)
    assert not any("ζ" in token or "ψ" in token for token in tokens)


def test_blank_pairs_and_duplicates_of_a_table_are_counted_and_left_out(tmp_path: Path) -> None:
    lines = [f"{source}\t{target}" for source, target in [*PAIRS, *PAIRS[:7]]]
    files.write_lines(tmp_path / "x.tsv", [*lines, "a\t", "", "\tb"])
    config = dataclasses.replace(CONFIG, name=str(tmp_path / "x.tsv"))
    counts = prepare.prepare(config, tmp_path / "data").counts
    assert (counts.read, counts.blank, counts.duplicates, counts.kept) == (210, 3, 7, 200)


def test_ready_made_splits_stay_as_they_are_and_their_leakage_is_reported(tmp_path: Path) -> None:
    manifest = prepare.prepare(CONFIG, tmp_path / "data", files=ready_made(tmp_path))
    assert data_folder.read_split(tmp_path / "data", "train") == [*PAIRS[:40], PAIRS[0]]
    assert data_folder.read_split(tmp_path / "data", "test") == PAIRS[39:49]
    assert (manifest.origin, manifest.corpus, manifest.counts.blank) == ("sides", "custom", 1)
    assert manifest.counts.duplicates == 1 + 1 + 5  # inside train, of test in train, of test in valid
    assert manifest.leakage.test == Leakage(source=0.1, target=0.1, either=0.1, both=0.1)
    assert sorted(manifest.sources) == sorted(f"{name}.{side}" for name in corpus.SPLITS for side in ("src", "tgt"))


@pytest.mark.parametrize(
    ("config_name", "file", "expected"),
    [
        ("phrasebook", "europarl.en.gz", "europarl"),
        ("phrasebook", "train.en", "custom"),  # says nothing
        ("phrasebook", "phrasebook.en", "custom"),  # the bundled one it is not
        ("mine", "europarl.en", "mine"),
    ],
)
def test_what_ready_made_splits_are_called(config_name: str, file: str, expected: str) -> None:
    files_of = {"train": (Path(file), Path("x"))}
    assert prepare.named(CorpusConfig(name=config_name), files_of).name == expected
    if config_name == "phrasebook":  # en-es has no meaning for files of one's own, its order has
        assert prepare.named(CorpusConfig(direction="es-en"), files_of).direction == "backward"


def test_the_archive_goes_into_the_manifest(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "new.zip", "w") as archive:
        archive.writestr("spa.txt", "".join(f"{source}\t{target}\tCC-BY\n" for source, target in PAIRS))
    config = dataclasses.replace(CONFIG, name="tatoeba-spa-eng")
    manifest = prepare.prepare(config, tmp_path / "data", archive=tmp_path / "new.zip")
    assert manifest.sources == {"archive": files.checksum(tmp_path / "new.zip")}
    assert manifest.counts.kept == 200


REAL = os.environ.get(tatoeba.VARIABLE, "")


@pytest.mark.slow
@pytest.mark.skipif(not Path(REAL).is_file(), reason=f"{tatoeba.VARIABLE} names no archive")
@pytest.mark.parametrize(("how", "source", "either"), [("grouped", 0, 0), ("random", 0.18, 0.23)])
def test_the_leakage_of_the_real_archive(tmp_path: Path, how: str, source: float, either: float) -> None:
    config = CorpusConfig(name="tatoeba-spa-eng", split="grouped" if how == "grouped" else "random")
    manifest = prepare.prepare(config, tmp_path / "data", archive=Path(REAL))
    assert manifest.counts.kept == 118_964
    assert manifest.counts.groups == (97_780 if how == "grouped" else None)
    assert manifest.leakage.test.source == pytest.approx(source, abs=0.01)
    assert manifest.leakage.test.either == pytest.approx(either, abs=0.01)


# ------------------------------------------------------------------------------------------------------ found again


def test_preparing_the_same_again_does_nothing(tmp_path: Path, table: Path) -> None:
    for config, files_of in [
        (CONFIG, None),
        (dataclasses.replace(CONFIG, direction="en-es"), None),
        (dataclasses.replace(CONFIG, max_length=5, overlong="cut"), None),  # at work in training only
        (dataclasses.replace(CONFIG, name=str(table)), None),
        (CONFIG, ready_made(tmp_path)),
    ]:
        folder = tmp_path / "data" / prepare.named(config, files_of).folder_name
        first = prepare.prepare(config, folder, files=files_of)
        before = snapshot(folder)
        assert prepare.prepare(config, folder, files=files_of) == first
        assert snapshot(folder) == before


def test_a_prepared_folder_goes_by_its_name(tmp_path: Path, table: Path) -> None:
    config = dataclasses.replace(CONFIG, name=str(table))
    manifest = prepare.prepare(config, data_folder.default_folder(config, tmp_path / "data"))
    by_name = dataclasses.replace(CONFIG, name="news")
    assert prepare.prepare(by_name, data_folder.default_folder(by_name, tmp_path / "data")) == manifest
    with pytest.raises(ConfigError, match="does not say where its files are; name them again"):
        prepare.prepare(by_name, tmp_path / "data" / "news", force=True)


def test_preparing_differently_needs_force(prepared: Path) -> None:
    folder, before = prepared, snapshot(prepared)
    other = dataclasses.replace(CONFIG, vocab_size=350)
    with pytest.raises(ConfigError, match=r"vocab_size is 400, the configuration asks for 350; --force prepares it"):
        prepare.prepare(other, folder)
    assert snapshot(folder) == before
    assert prepare.prepare(other, folder, force=True).tokenizer.source_size <= 350
    assert data_folder.load_manifest(folder).config == other


def test_other_files_under_the_same_name_are_noticed(tmp_path: Path, table: Path) -> None:
    config = dataclasses.replace(CONFIG, name=str(table))
    prepare.prepare(config, tmp_path / "data")
    with table.open("a") as file:
        file.write("One more.\tUno más.\n")
    with pytest.raises(ConfigError, match=r"news\.tsv is not the table file it was made from; --force"):
        prepare.prepare(config, tmp_path / "data")
    table.unlink()
    with pytest.raises(DataError, match=r"news\.tsv: no such file$"):
        prepare.prepare(config, tmp_path / "data")


@pytest.mark.parametrize("name", ["test.tgt", "tokenizer.model"])
def test_the_damaged_files_of_a_folder_are_named(prepared: Path, name: str) -> None:
    folder, first = prepared, data_folder.load_manifest(prepared)
    with (folder / name).open("ab") as file:
        file.write(b"x\n")
    for _ in "changed", "missing":
        with pytest.raises(DataError, match=rf"{name} missing or changed since prepared; --force prepares it anew$"):
            prepare.prepare(CONFIG, folder)
        (folder / name).unlink(missing_ok=True)
    assert prepare.prepare(CONFIG, folder, force=True).files == first.files


# ------------------------------------------------------------------------------------------------- left as it was


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")], ids=["Ctrl-C", "full"])
@pytest.mark.parametrize(
    ("place", "step"),
    [(prepare, "write_lines"), (prepare, "checksum"), (prepare, "write_json"), (files, "_exchange")],
    ids=["write_lines", "checksum", "write_json", "_exchange"],
)
def test_an_end_at_any_step_leaves_what_was_there(
    prepared: Path, monkeypatch: pytest.MonkeyPatch, place: ModuleType, step: str, error: BaseException
) -> None:
    folder, before = prepared, snapshot(prepared)

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(place, step, fail)
    for target in (folder, folder.with_name("fresh")):
        with pytest.raises((KeyboardInterrupt, DataError)) as caught:
            prepare.prepare(dataclasses.replace(CONFIG, seed=2), target, force=True)
        if isinstance(error, OSError):
            assert str(caught.value) == f"cannot write {target}: No space left on device"
    assert snapshot(folder) == before
    assert list(folder.parent.iterdir()) == [folder]


def test_an_end_between_the_two_renamings_leaves_what_was_there(
    prepared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, before = prepared, snapshot(prepared)
    rename = Path.rename

    def interrupted(self: Path, target: Path) -> Path:
        if self.name == "new":
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare.prepare(CONFIG, folder, force=True)
    assert snapshot(folder) == before
    assert list(folder.parent.iterdir()) == [folder]


@pytest.mark.parametrize("force", [False, True])
def test_what_is_no_data_folder_is_never_replaced(tmp_path: Path, force: bool) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("years of work")
    with pytest.raises(ConfigError, match="holds other things than a prepared corpus; choose another folder with -o"):
        prepare.prepare(CONFIG, tmp_path / "home", force=force)
    with pytest.raises(ConfigError, match="a file is in the way"):
        prepare.prepare(CONFIG, tmp_path / "home" / "thesis.tex", force=force)
    assert (tmp_path / "home" / "thesis.tex").read_text() == "years of work"


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk" / "data").mkdir(parents=True)
    (tmp_path / "data").symlink_to(tmp_path / "disk" / "data")
    prepare.prepare(CONFIG, tmp_path / "data")
    prepare.prepare(CONFIG, tmp_path / "data", force=True)
    assert (tmp_path / "data").is_symlink()
    assert (tmp_path / "disk" / "data" / "manifest.json").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "disk"]
    assert [path.name for path in (tmp_path / "disk").iterdir()] == ["data"]


# ------------------------------------------------------------------------------------------------------ user mistakes


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("phrasbook", r"corpus 'phrasbook': neither known nor prepared .*; did you mean phrasebook\?"),
        ("tatoeba", r"corpus 'tatoeba': .* did you mean tatoeba-spa-eng\?"),
        ("xyz", r"corpus 'xyz': .* known are phrasebook and tatoeba-spa-eng"),
    ],
)
def test_an_unknown_corpus_gets_the_nearest_name(tmp_path: Path, name: str, message: str) -> None:
    config = CorpusConfig(name=name)
    with pytest.raises(ConfigError, match=rf"^{message}"):
        prepare.prepare(config, tmp_path / "data")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"x\.tsv: no sentence pairs in it"),
        (b"a\tb\n", r"x\.tsv: the corpus has 1 sentence pair\(s\); at least 3 are needed"),
        (b"a\tb\nc\n", r"x\.tsv:2: no tab"),
        (b"a\tb\n\xff\tx\n", r"x\.tsv:2: not valid UTF-8"),
        (b"a\tb\na\tc\na\td\n", r"x\.tsv: 3 pairs are linked into 1 group"),
    ],
    ids=["empty", "one line", "no tab", "latin-1", "one group"],
)
def test_bad_tables_are_one_line_and_leave_nothing(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x.tsv").write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        prepare.prepare(dataclasses.replace(CONFIG, name=str(tmp_path / "x.tsv")), tmp_path / "data")
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["x.tsv"]


def test_missing_files_and_places_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("a\tb\n")
    (tmp_path / "folder.tsv").mkdir()
    asked = [
        (
            CorpusConfig(name=str(tmp_path / "notes.txt")),
            tmp_path / "a",
            r"must be a tab-separated file whose name ends in \.tsv or \.tsv\.gz$",
        ),
        (CorpusConfig(name=str(tmp_path / "no.tsv")), tmp_path / "a", r"no\.tsv: No such file or directory$"),
        (CorpusConfig(name=str(tmp_path / "folder.tsv")), tmp_path / "a", r"folder\.tsv: Is a directory$"),
        (CONFIG, tmp_path / "notes.txt" / "a", r"^cannot write .*a: File exists \(.*notes\.txt\)$"),
    ]
    for config, folder, message in asked:
        with pytest.raises(ProjtransError, match=message):
            prepare.prepare(config, folder)
