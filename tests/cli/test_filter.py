"""`translate` as a filter: a line for a line whatever comes, in bounded time and memory, and killed without a trace."""

import contextlib
import gzip
import io
import json
import os
import pty
import random
import re
import select
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from projtrans import Translator, files
from projtrans.cli import filter as filtering
from projtrans.data.tokenizer import Tokenizer
from projtrans.errors import DataError, RunError
from projtrans.inference import line_reader as windows
from projtrans.inference import line_translation as streams
from projtrans.inference.line_reader import FIRST_LINES, MOMENT, Place
from projtrans.inference.resumable_output import ResumableOutput
from projtrans.inference.translator import WINDOW
from tests import killing_filter
from tests.conftest import Result, Toy, cli, command, done, full_disk, numbers, spell, tree

PATIENCE = 120.0
"""Seconds after which a process that ought to have answered is taken to hang."""


@pytest.fixture(scope="module")
def brief(toy: Toy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of a toy model whose translations are short, so that thousands take seconds."""
    folder = shutil.copytree(toy.run("standard"), tmp_path_factory.mktemp("brief") / "run")
    file = folder / "config.yaml"
    text = file.read_text(encoding="utf-8")
    assert "max_length_ratio: 2.0" in text
    file.write_text(text.replace("max_length_ratio: 2.0", "max_length_ratio: 0.1"), encoding="utf-8")
    return Path(folder)


# ------------------------------------------------------------------------------------------------------------- a fuzz


def piece(chance: random.Random) -> bytes:
    """Some bytes without a line feed: words, or what a line should not hold."""
    kind = chance.randrange(14)
    if kind < 4:
        return spell(str(chance.randrange(10_000))).encode()
    if kind == 4:
        return bytes(chance.choices([b for b in range(256) if b != 0x0A], k=chance.randrange(8)))  # seldom UTF-8
    if kind == 5:
        return bytes(chance.choices([b for b in range(32) if b != 0x0A], k=chance.randrange(6)))
    if kind == 6:
        return chance.choice(
            ["\u2028", "\u2029", "\x85", "\v", "\f", "\x1c", "\x1d", "\x1e", "\r", "\t", "\0"]
        ).encode()
    if kind == 7:
        return chance.choice(["😀", "👩‍👩‍👧", "🏳️‍🌈", "👍🏽", "🇪🇸"]).encode()
    if kind == 8:
        return chance.choice(["שלום", "\u202eowt\u202c", "مرحبا", "\u200f"]).encode()
    if kind == 9:
        return chr(chance.randrange(0xD800, 0xE000)).encode("utf-8", "surrogatepass")  # not UTF-8
    if kind == 10:
        return "".join(chance.choices("…?!¡¿.,;:-–—'\"()[]{}/\\|@#%&*_~^`", k=chance.randrange(1, 6))).encode()
    if kind == 11:
        return chance.choice(["", " ", "  \u00a0\u3000", "\t", "▁", "\ufeff"]).encode()
    if kind == 12:
        return "".join(chance.choices("\u0301\u0308é漢字\ue000\ufffe\uffff\U0010ffff", k=4)).encode()
    return chance.choice([b"<s>", b"</s>", b"<pad>", b"<unk>", b"<0x0A>", b"[UNK]"])


def fuzz(count: int, seed: int) -> list[bytes]:
    """Lines of all sorts, three of them of 10,000 words and more, the last one in one word."""
    chance = random.Random(seed)
    found = [chance.choice([b"", b" "]).join(piece(chance) for _ in range(chance.randrange(4))) for _ in range(count)]
    found[count // 9] = b"one " * 10_000
    found[count // 2] = b"\xff " * 10_000
    found[-9] = b"x" * (windows.LONGEST_LINE + 9)
    return [line + (b"\r" if chance.random() < 0.1 else b"") for line in found]


def text_of(line: bytes) -> str | None:
    """What Python makes of a line: None where it is not UTF-8."""
    try:
        return line.removesuffix(b"\r").decode("utf-8")
    except UnicodeDecodeError:
        return None


@pytest.mark.parametrize(("policy", "count"), [("blank", 10_000), ("copy", 2_000)])
def test_ten_thousand_lines_of_all_sorts_give_ten_thousand_lines(brief: Path, policy: str, count: int) -> None:
    lines = fuzz(count, seed=1)
    result = done(
        "translate", "--model", brief, "--beam-size", 1, "--on-error", policy, stdin=b"\n".join(lines) + b"\n"
    )
    assert len(result.lines) == len(lines)
    translator = Translator.load(brief, "cpu").with_decoding(beam_size=1)
    bad = 0
    for number, (line, found) in enumerate(zip(lines, result.lines, strict=True)):
        assert len(found.splitlines()) <= 1, "whatever a reader takes for the end of a line"
        assert "\t" not in found
        text = text_of(line)
        if text is None:
            bad += 1
            expected = line.decode("utf-8", "replace") if policy == "copy" else ""
            assert found == " ".join(expected.split()), line
        elif not text.strip():
            assert found == "", line
        elif number % 100 == 0:
            assert found == translator(text), line
    assert len(lines) / 20 < bad < len(lines) / 2
    shown = [line for line in result.err.split("\n") if "not valid UTF-8" in line]
    first = [number for number, line in enumerate(lines, 1) if text_of(line) is None][: streams.SHOWN_WARNINGS]
    assert [int(line.split(":")[2]) for line in shown] == first
    assert f"{bad:,} lines could not be translated" in result.err


@pytest.mark.parametrize("format", ["tsv", "json"])
def test_no_format_lets_a_line_break_its_line(brief: Path, format: str) -> None:
    lines = fuzz(400, seed=2)
    options = ["--model", brief, "--beam-size", 2, "--on-error", "copy", "--format", format, "--n-best", 2]
    result = done("translate", *options, stdin=b"\n".join(lines) + b"\n")
    if format == "json":
        records = [json.loads(line) for line in result.out.splitlines()]
        kept = [line.removesuffix(b"\r")[: windows.LONGEST_LINE] for line in lines]
        assert [record["source"] for record in records] == [line.decode("utf-8", "replace") for line in kept]
        assert [("problem" in record) for record in records] == [text_of(line) is None for line in lines]
    else:
        assert all(len(line.split("\t")) == 2 for line in result.out.splitlines())


@pytest.mark.parametrize("kind", ["bpe", "word"])
def test_a_line_without_a_piece_is_a_blank_one(toy: Toy, tmp_path: Path, kind: str) -> None:
    """The sign for a space alone; of the paper's words nothing is left of punctuation."""
    folder = toy.folder
    if kind == "word":
        folder = tmp_path
        shutil.copy(toy.folder / "toy.tsv", folder)
        settings = (toy.folder / "tiny.yaml").read_text(encoding="utf-8")
        (folder / "tiny.yaml").write_text(settings.replace("vocab_size: 400", "vocab_size: 400\n  tokenizer: word"))
        with contextlib.chdir(folder):
            sets = ["--set", "training.epochs=1", "--set", "model.embeddings.tie=output"]
            done("train", "--config", "tiny.yaml", "--run", "run", "--threads", 1, *sets)
    model = folder / "run" if kind == "word" else toy.run("standard")
    text = {"word": "?!", "bpe": "\u2581"}[kind]
    result = done("translate", "--model", model, "--format", "json", stdin=f"one\n{text}\n\u2581 \nthree\n")
    found = [json.loads(line) for line in result.lines]
    assert [(record["translation"], record["score"]) == ("", 0.0) for record in found] == [False, True, True, False]


def test_single_byte_pieces_spell_no_line_end(toy: Toy) -> None:
    tokenizer = Tokenizer.load(toy.run("standard"))
    pieces = tokenizer.pieces_target(range(tokenizer.target_size))
    for ends in (
        b"\n",
        b"\r",
        b"\r\n",
        b"\t",
        b"\x0b",
        b"\x0c",
        b"\x1c",
        b"\x85".decode("latin-1").encode(),
        "\u2028".encode(),
    ):
        ids = [pieces.index(f"<0x{byte:02X}>") for byte in b"A" + ends + b"B"]
        assert tokenizer.decode_target([ids]) == ["A B"]


# -------------------------------------------------------------------------------------------------- what is not a line


def test_what_comes_before_a_line_that_fails_is_out(brief: Path, tmp_path: Path) -> None:
    lines = [b"one", b"", b"two three", b"\xff", b"four", b"\xfe"]
    (tmp_path / "in").write_bytes(b"\n".join(lines))
    for arguments, name in (([], "standard input"), (["--input", tmp_path / "in"], str(tmp_path / "in"))):
        result = cli("translate", "--model", brief, *arguments, stdin=b"\n".join(lines))
        assert result.status == 1
        assert result.lines == done("translate", "--model", brief, stdin=b"\n".join(lines[:3])).lines
        assert len(result.err.split("\n")) == 2
        assert f"{name}:4: not valid UTF-8" in result.err
        assert "--on-error" in result.err


def test_a_line_that_the_model_cannot_take_is_named_and_the_others_are_translated(
    toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if a row of the embeddings were damaged: a whole batch fails for one sentence with its piece."""
    model, search = ["translate", "--model", toy.run("standard")], Translator.search
    lines = [spell(number) for number in numbers(30)]
    sound = done(*model, stdin="\n".join(lines)).lines
    tokenizer = Tokenizer.load(toy.run("standard"))
    piece = tokenizer.encode_source(["seven"])[0][0]
    hurt = [piece in ids for ids in tokenizer.encode_source(lines)]
    assert 3 < sum(hurt) < 27

    def damaged(self: Translator, sources: list[list[int]], *rest: Any, **more: Any) -> Any:
        if any(piece in ids for ids in sources):
            raise RunError("search: the model's probabilities are not finite")
        return search(self, sources, *rest, **more)

    monkeypatch.setattr(Translator, "search", damaged)
    result = done(*model, "--on-error", "blank", stdin="\n".join(lines))
    assert result.lines == ["" if bad else line for line, bad in zip(sound, hurt, strict=True)]
    first = hurt.index(True)
    failed = cli(*model, stdin="\n".join(lines))
    assert (failed.status, failed.lines) == (1, sound[:first])
    assert f"standard input:{first + 1}: search: the model's probabilities are not finite" in failed.errors[0]


def test_warnings_of_many_lines_are_counted(brief: Path) -> None:
    result = done("translate", "--model", brief, "--on-error", "blank", stdin=b"\xff\n" * 1234 + b"one\n")
    told = result.err.split("\n")[:-1]
    assert len(told) == streams.SHOWN_WARNINGS + 1
    assert told[-1] == "warning: 1,234 lines could not be translated and were left blank"
    assert done("translate", "--model", brief, "--on-error", "blank", "--quiet", stdin=b"\xff\n").err == ""


# ------------------------------------------------------------------------------------------------------------ windows


class Chunks(io.BytesIO):
    """Bytes that come in pieces of these sizes, again and again."""

    def __init__(self, data: bytes, sizes: list[int]) -> None:
        super().__init__(data)
        self.sizes, self.count = sizes, 0

    def read1(self, size: int | None = -1, /) -> bytes:
        self.count += 1
        return self.read(self.sizes[self.count % len(self.sizes)])


def taken(data: bytes, sizes: list[int], **options: Any) -> list[windows.Window]:
    return list(windows.windows(Chunks(data, sizes), **options))


SIZES = st.lists(st.integers(1, 40), min_size=1, max_size=5)


@given(
    data=st.lists(st.sampled_from([b"\n", b"\r", b"a", b"bc", b"\xc3\xa9", b"\xff", b"\xef\xbb\xbf"])).map(b"".join),
    sizes=SIZES,
)
def test_lines_are_those_of_the_strict_reader_however_they_come(data: bytes, sizes: list[int]) -> None:
    lines = [line for window in taken(data, sizes, first_lines=3) for line in window.lines]
    assert [line.number for line in lines] == list(range(1, len(lines) + 1))
    problems = [line for line in lines if line.problem]
    if problems:
        with pytest.raises(DataError, match=re.escape(f"text:{problems[0].number}: {problems[0].problem};")):
            files.decode_lines(data, "text")
    else:
        assert [line.text for line in lines] == files.decode_lines(data, "text")
    assert not [line for line in lines if line.cut]


@given(st.lists(st.integers(0, 9), max_size=400), SIZES)
def test_a_window_goes_on_where_the_last_one_ended(lengths: list[int], sizes: list[int]) -> None:
    """Windows from any end on are those of the whole, in a file whose windows do not grow."""
    data = b"".join(b"x" * length + b"\n" for length in lengths)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(windows, "WINDOW_CHARACTERS", 50)
        whole = taken(data, sizes, first_lines=16, most_lines=16)
        for number, window in enumerate(whole):
            assert len(window.lines) <= 16
            assert sum(len(line.text) for line in window.lines[:-1]) < 50
            rest = taken(data[window.end.bytes :], sizes, first_lines=16, most_lines=16, start=window.end)
            assert [(w.lines, w.end) for w in rest] == [(w.lines, w.end) for w in whole[number + 1 :]]


def test_windows_begin_small_and_grow_and_are_bounded_by_text() -> None:
    counts = [len(window.lines) for window in taken(b"a\n" * 10_000, [65536])]
    assert counts[:6] == [FIRST_LINES, 2 * FIRST_LINES, 4 * FIRST_LINES, 8 * FIRST_LINES, 16 * FIRST_LINES, WINDOW]
    assert sum(counts) == 10_000
    long = b"a" * 50_000 + b"\n"
    assert max(len(window.lines) for window in taken(long * 40, [65536])) == -(-windows.WINDOW_CHARACTERS // 50_000)


@pytest.mark.parametrize("sizes", [[1], [3, 7], [1 << 16]])
def test_of_an_endless_line_only_the_beginning_is_kept(monkeypatch: pytest.MonkeyPatch, sizes: list[int]) -> None:
    monkeypatch.setattr(windows, "LONGEST_LINE", 8)
    data = "one two three\r\nééééé\nfive\n12345678\n".encode()
    (window,) = taken(data, sizes)
    assert [line.text for line in window.lines] == ["one two ", "éééé", "five", "12345678"]
    assert [line.cut for line in window.lines] == [True, True, False, False]
    assert window.end == Place(4, len(data))
    (window,) = taken("1234567é".encode(), sizes)  # cut in the middle of a character
    assert [(line.text, line.problem, line.cut) for line in window.lines] == [("1234567", None, True)]


class Producer:
    """A pipe whose other end writes at given times; there is no other clock."""

    def __init__(self, arrivals: list[tuple[float, bytes]]) -> None:
        self.arrivals, self.now = arrivals, 0.0

    def monotonic(self) -> float:
        return self.now

    def select(self, streams: object, *unused: object) -> tuple[bool]:
        timeout = unused[-1]
        assert isinstance(timeout, float)
        there = not self.arrivals or self.arrivals[0][0] <= self.now + timeout  # the end can be read, too
        self.now = max(self.now, self.arrivals[0][0]) if there and self.arrivals else self.now + timeout * (not there)
        return (there,)

    def read1(self, size: int) -> bytes:
        if not self.arrivals:
            return b""
        when, data = self.arrivals.pop(0)
        self.now = max(self.now, when)
        return data


@given(
    steps=st.lists(st.tuples(st.floats(0, 3), st.sampled_from([b"a\n", b"a\nb\nc\n", b"d", b"\n" * 100])), max_size=40),
    buffer=st.sampled_from([0.0, 0.01, 0.5, 2.0]),
)
def test_no_line_waits_longer_than_the_buffer(steps: list[tuple[float, bytes]], buffer: float) -> None:
    times = [sum(step for step, _ in steps[: i + 1]) for i in range(len(steps))]
    came = [when for when, (_, data) in zip(times, steps, strict=True) for _ in range(data.count(b"\n"))]
    producer = Producer([(when, data) for when, (_, data) in zip(times, steps, strict=True)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(windows, "time", producer)
        patch.setattr(windows, "select", producer)
        patch.setattr(windows, "_is_file", lambda stream: False)
        out = [
            (producer.now, line)
            for window in windows.windows(producer, buffer=buffer)  # type: ignore[arg-type]
            for line in window.lines
        ]
    assert [line.number for _, line in out] == list(range(1, len(out) + 1))
    for (when, _), arrived in zip(out, came, strict=False):
        assert when <= arrived + max(buffer, MOMENT) + 1e-9
        if buffer == 0.0 and not any(arrived < other <= arrived + MOMENT for other in times):
            assert when == arrived, "nothing more is there, so nothing is waited for"
    assert len(out) == len(came) + (b"".join(data for _, data in steps)[-1:] == b"d")


def test_a_buffer_gathers_what_comes_in_time() -> None:
    def gathered(buffer: float) -> list[int]:
        producer = Producer([(0.1 * i, b"a\n") for i in range(10)])
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(windows, "time", producer)
            patch.setattr(windows, "select", producer)
            patch.setattr(windows, "_is_file", lambda stream: False)
            return [len(w.lines) for w in windows.windows(producer, buffer=buffer)]  # type: ignore[arg-type]

    assert gathered(0.0) == [1] * 10
    assert gathered(0.45) == [5, 5]
    assert gathered(10.0) == [10]


def test_a_pipe_of_the_system_is_waited_for(brief: Path) -> None:
    """With a buffer that never ends before the input does, lines from several writes are one window."""
    reader, writer = os.pipe()
    with open(reader, "rb") as stream, open(writer, "wb", buffering=0) as sink:
        sink.write(b"one\n")
        found = windows.windows(stream, buffer=0.0)
        assert [line.text for line in next(found).lines] == ["one"]
        sink.write(b"two\nthr")
        assert [line.text for line in next(found).lines] == ["two"]
        sink.write(b"ee\n")
        assert [line.text for line in next(found).lines] == ["three"]
        sink.write(b"four")
        sink.close()
        assert [line.text for line in next(found).lines] == ["four"]
        assert list(found) == []


# -------------------------------------------------------------------------------------------------- from file to file


@pytest.fixture
def long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in with a file of 150 lines, translated 16 at a time."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(filtering, "WINDOW", 16)
    lines = [spell(number) for number in numbers(150, seed=3)]
    lines[40] = ""
    Path("in").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return tmp_path


def stop(after: int, patch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Let the translation end so when so many windows are kept."""
    keep, kept = ResumableOutput.keep, []

    def counted(self: ResumableOutput, *place: int) -> None:
        keep(self, *place)
        kept.append(place)
        if len(kept) == after:
            raise error

    patch.setattr(ResumableOutput, "keep", counted)


def begun(
    brief: Path, *options: object, source: str = "in", after: int = 4, error: BaseException | None = None
) -> Result:
    """A translation that was stopped after some windows."""
    with pytest.MonkeyPatch.context() as patch:
        stop(after, patch, error or KeyboardInterrupt())
        return cli("translate", "--model", brief, "--input", source, "--output", "out", *options)


def test_a_translation_that_is_killed_over_and_over_ends_as_one_that_is_not(brief: Path, long: Path) -> None:
    root = Path(killing_filter.__file__).parent.parent
    arguments = [sys.executable, "-m", "tests.killing_filter", str(brief), "in", "--kills", "30"]
    environment = os.environ | {"PYTHONPATH": str(root)}
    finished = subprocess.run(arguments, capture_output=True, text=True, timeout=500, check=False, env=environment)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert finished.stdout.startswith("30 kills, ")
    assert finished.stdout.endswith("without one difference\n")


@pytest.mark.parametrize("options", [[], ["--format", "tsv", "--n-best", 3], ["--format", "json", "--n-best", 2]])
@pytest.mark.parametrize("ending", ["in", "in.gz"])
def test_a_stopped_translation_is_gone_on_with_to_the_same_bytes(
    brief: Path, long: Path, options: list[object], ending: str
) -> None:
    Path("in.gz").write_bytes(gzip.compress(Path("in").read_bytes()))
    whole = ["translate", "--model", brief, "--input", ending, "--output", "whole", *options]
    done(*whole)
    Path("out").write_text("old\n", encoding="utf-8")
    result = begun(brief, *options, source=ending)
    assert (result.status, result.out) == (130, "")
    assert len(result.errors) == 1
    assert "stopped after 64 lines; resume with: projtrans" in result.errors[0]
    assert Path("out").read_text(encoding="utf-8") == "old\n"
    assert Path("whole").read_bytes().startswith(Path("out.unfinished").read_bytes())
    resumed = done("translate", "--model", brief, "--input", ending, "--output", "out", "--resume", *options)
    assert "64 lines are translated already" in resumed.err
    assert Path("out").read_bytes() == Path("whole").read_bytes()
    assert sorted(os.listdir()) == ["in", "in.gz", "out", "whole"]
    lines = Path("out").read_text(encoding="utf-8").split("\n")[:-1]
    assert len(lines) == 150 or "tsv" in options


CHANGES = [
    ("other search settings", ["--beam-size", 1], "beam_size (5 before, 1 now)"),
    ("another penalty", ["--length-penalty", 0.5], "length_penalty (1.0 before, 0.5 now)"),
    ("another format", ["--format", "json"], "format (text before, json now)"),
    ("another answer to errors", [], "on_error (blank before, None now)"),
    ("another input", ["in"], "input ("),
    ("another model", ["model"], "weights ("),
]


@pytest.mark.parametrize(("reason", "change", "told"), CHANGES, ids=[row[0] for row in CHANGES])
def test_what_was_made_otherwise_is_not_gone_on_with(
    brief: Path, toy: Toy, long: Path, reason: str, change: list[Any], told: str
) -> None:
    begun(brief, "--on-error", "blank")
    options = ["--on-error", "blank", *change] if change else []
    model = brief
    if change == ["in"]:
        Path("in").write_text(Path("in").read_text(encoding="utf-8").replace("one", "two", 1), encoding="utf-8")
        options.pop()
    elif change == ["model"]:
        model = toy.run("projection")
        options.pop()
    before = tree(long)
    result = cli("translate", "--model", model, "--input", "in", "--output", "out", "--resume", *options)
    assert (result.status, result.out) == (1, "")
    assert len(result.err.split("\n")) == 2
    assert told in result.errors[0]
    assert "out.unfinished" in result.errors[0]
    assert tree(long) == before


def test_lines_that_fail_can_be_left_blank_when_it_is_gone_on(brief: Path, long: Path) -> None:
    """What is there was made without any, so that its rest may be made by another answer to errors."""
    with Path("in").open("r+b") as file:
        lines = file.read().split(b"\n")
        lines[100] = b"\xff"
        file.seek(0)
        file.truncate()
        file.write(b"\n".join(lines))
    done("translate", "--model", brief, "--input", "in", "--output", "whole", "--on-error", "blank")
    command = ["translate", "--model", brief, "--input", "in", "--output", "out"]
    result = cli(*command)
    assert result.status == 1
    assert "in:101: not valid UTF-8" in result.errors[0]
    assert "out.unfinished" in result.errors[0]
    whole = Path("whole").read_text(encoding="utf-8").split("\n")
    assert Path("out.unfinished").read_text(encoding="utf-8").split("\n")[:-1] == whole[:100]
    done(*command, "--resume", "--on-error", "blank")
    assert Path("out").read_bytes() == Path("whole").read_bytes()


def test_an_unfinished_output_is_not_lost_by_beginning_again(brief: Path, long: Path) -> None:
    begun(brief)
    before = tree(long)
    arguments = ["translate", "--model", brief, "--input", "in", "--output", "out"]
    result = cli(*arguments)
    assert (result.status, len(result.errors)) == (1, 1)
    assert "out.unfinished: an unfinished translation of 64 lines" in result.errors[0]
    assert "--resume" in result.errors[0]
    assert tree(long) == before
    Path("out.unfinished").unlink()
    done(*arguments)
    assert len(Path("out").read_bytes().split(b"\n")) == 151
    assert sorted(os.listdir()) == ["in", "out"]


DAMAGE = [
    ("out.unfinished", lambda data: data[:10], "shorter than its record says"),
    ("out.unfinished.json", lambda data: data[:10], "damaged"),
    ("out.unfinished.json", lambda data: b"[]", "damaged"),
    ("out.unfinished.json", lambda data: data.replace(b'"format": 1', b'"format": 9'), "another version"),
    ("out.unfinished.json", None, "no record"),
]


@pytest.mark.parametrize(("name", "change", "told"), DAMAGE)
def test_damaged_records_are_one_line(brief: Path, long: Path, name: str, change: Any, told: str) -> None:
    begun(brief)
    data = Path(name).read_bytes()
    Path(name).unlink() if change is None else Path(name).write_bytes(change(data))
    before = tree(long)
    result = cli("translate", "--model", brief, "--input", "in", "--output", "out", "--resume")
    assert result.status == 1
    assert len(result.err.split("\n")) == 2
    assert told in result.errors[0]
    assert tree(long) == before


def test_two_processes_do_not_write_the_same_output(long: Path) -> None:
    with ResumableOutput(Path("out"), {}, resume=False) as first:
        with (
            pytest.raises(DataError, match=r"^out\.unfinished: another process"),
            ResumableOutput(Path("out"), {}, resume=True),
        ):
            pass
        first.write(["one"])
        first.keep(1, 4)
        first.finish()
    assert Path("out").read_text(encoding="utf-8") == "one\n"


def test_a_full_disk_leaves_what_is_done(brief: Path, long: Path) -> None:
    done("translate", "--model", brief, "--input", "in", "--output", "whole", "--format", "json")
    arguments = ["translate", "--model", brief, "--input", "in", "--output", "out", "--format", "json"]
    with full_disk(9_000):
        result = cli(*arguments)
    assert (result.status, len(result.errors)) == (1, 1)
    done(*arguments, "--resume")
    assert Path("out").read_bytes() == Path("whole").read_bytes()
    assert sorted(os.listdir()) == ["in", "out", "whole"]


def test_the_input_may_be_the_output(brief: Path, long: Path) -> None:
    expected = done("translate", "--model", brief, "--input", "in").out
    done("translate", "--model", brief, "--input", "in", "--output", "in")
    assert Path("in").read_text(encoding="utf-8") == expected


FLAGS = [
    ["--resume"],
    ["--resume", "--input", "in"],
    ["--resume", "--output", "out"],
    ["--resume", "--input", "-", "--output", "out"],
    ["--resume", "--input", "in", "--output", "/dev/null"],
    ["--buffer", "-1"],
    ["--buffer", "nan"],
    ["--buffer", "inf"],
    ["--on-error", "ignore"],
]


@pytest.mark.parametrize("arguments", FLAGS)
def test_flags_that_cannot_be_used(brief: Path, long: Path, arguments: list[str]) -> None:
    result = cli("translate", "--model", brief, *arguments, stdin="one\n")
    assert (result.status, result.out) == (2, "")
    assert len(result.errors) == 1
    assert arguments[0] in result.errors[0]


def test_a_device_is_written_to_and_stays_one(brief: Path, long: Path) -> None:
    os.mkfifo("pipe")
    reader = os.open("pipe", os.O_RDONLY | os.O_NONBLOCK)
    done("translate", "--model", brief, "--input", "in", "--output", "pipe")
    assert os.read(reader, 1 << 20).decode("utf-8") == done("translate", "--model", brief, "--input", "in").out
    os.close(reader)
    assert sorted(os.listdir()) == ["in", "pipe"]


RUNNER = "from projtrans.cli import filter; filter.WINDOW = 16; from projtrans.cli.main import main; main()"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_told_the_command_that_goes_on(toy: Toy, long: Path, number: signal.Signals) -> None:
    lines = "".join(f"{spell(number)} {spell(number)}\n" for number in numbers(4000, seed=5))
    Path("my in").write_text(lines, encoding="utf-8")
    arguments = [
        "translate",
        "--model",
        str(toy.run("standard")),
        "--input",
        "my in",
        "--output",
        "my out",
        "--threads",
        "1",
    ]
    process = subprocess.Popen(
        [sys.executable, "-c", RUNNER, *arguments], stderr=subprocess.PIPE, stdout=subprocess.PIPE
    )
    deadline = time.monotonic() + PATIENCE
    record = Path("my out.unfinished.json")
    while not (record.exists() and json.loads(record.read_text(encoding="utf-8"))["done"]["lines"]):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(number)
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 128 + number, err
    assert out == b""
    (line,) = err.decode().split("\n")[:-1]
    again = shlex.split(line.partition("resume with: ")[2])
    assert again == ["projtrans", *arguments, "--resume"]
    kept = json.loads(record.read_text(encoding="utf-8"))["done"]["lines"]
    assert f"stopped after {kept:,} lines" in line
    Path("my in").write_text("".join(lines.splitlines(keepends=True)[:kept]), encoding="utf-8")
    result = cli(*again[1:])
    assert "input (" in result.errors[0], "a shorter input is another"


# ---------------------------------------------------------------------------------------------------------- progress


def at_terminal(arguments: list[str], *, stdout: bool) -> str:
    """What a command shows on a terminal that is its standard error, and with `stdout` its standard output too."""
    terminal, slave = pty.openpty()
    process = subprocess.Popen(
        command("translate", *arguments),
        stdin=subprocess.DEVNULL,
        stdout=slave if stdout else subprocess.PIPE,
        stderr=slave,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "120"},
    )
    os.close(slave)
    shown = b""
    with contextlib.suppress(OSError):  # Linux: the other end is closed
        while select.select([terminal], [], [], PATIENCE)[0] and (data := os.read(terminal, 4096)):
            shown += data
    process.communicate(timeout=PATIENCE)
    os.close(terminal)
    assert process.returncode == 0
    return shown.decode("utf-8", "replace")


@pytest.mark.parametrize(
    ("reason", "options", "stdout", "told"),
    [
        ("file to file", ["--input", "in", "--output", "out"], True, "150/150"),
        ("file to a pipe", ["--input", "in"], False, "150/150"),
        ("file to the terminal", ["--input", "in"], True, None),
        ("quiet", ["--input", "in", "--output", "out", "--quiet"], True, None),
        ("a compressed file", ["--input", "in.gz", "--output", "out"], True, "150/?"),
    ],
)
def test_progress_is_shown_beside_the_data_alone(
    brief: Path, long: Path, reason: str, options: list[str], stdout: bool, told: str | None
) -> None:
    Path("in.gz").write_bytes(gzip.compress(Path("in").read_bytes()))
    shown = at_terminal(["--model", str(brief), *options], stdout=stdout)
    assert ("translating" in shown) == (told is not None)
    assert told is None or told in shown


def test_the_count_of_lines_leaves_the_file_where_it_is(tmp_path: Path) -> None:
    for data, expected in ((b"", 0), (b"a", 1), (b"a\n", 1), (b"a\n\nb", 3), (b"a\n" * 100_000, 100_000)):
        (tmp_path / "file").write_bytes(data)
        with windows.opened(tmp_path / "file") as stream:
            assert windows.lines_left(stream) == expected
            assert stream.tell() == 0
