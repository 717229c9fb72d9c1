"""`translate` as a filter: one line out per line in, whatever comes, and one line that says why not."""

import contextlib
import gzip
import json
import os
import pty
import random
import select
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from projtrans import Translator
from projtrans.data.tokenizer import Tokenizer
from projtrans.errors import RunError
from projtrans.inference import line_reader, line_translation
from tests.cli.cases import PATIENCE
from tests.commands import cli, command, done
from tests.toy import Toy, numbers, spell

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
    found[-9] = b"x" * (line_reader.LONGEST_LINE + 9)
    return [line + (b"\r" if chance.random() < 0.1 else b"") for line in found]


def text_of(line: bytes) -> str | None:
    """What Python makes of a line: None where it is not UTF-8."""
    try:
        return line.removesuffix(b"\r").decode("utf-8")
    except UnicodeDecodeError:
        return None


@pytest.mark.slow
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
    first = [number for number, line in enumerate(lines, 1) if text_of(line) is None][: line_translation.SHOWN_WARNINGS]
    assert [int(line.split(":")[2]) for line in shown] == first
    assert f"{bad:,} lines could not be translated" in result.err


@pytest.mark.slow
@pytest.mark.parametrize("format", ["tsv", "json"])
def test_no_format_lets_a_line_break_its_line(brief: Path, format: str) -> None:
    lines = fuzz(400, seed=2)
    options = ["--model", brief, "--beam-size", 2, "--on-error", "copy", "--format", format, "--n-best", 2]
    result = done("translate", *options, stdin=b"\n".join(lines) + b"\n")
    if format == "json":
        records = [json.loads(line) for line in result.out.splitlines()]
        kept = [line.removesuffix(b"\r")[: line_reader.LONGEST_LINE] for line in lines]
        assert [record["source"] for record in records] == [line.decode("utf-8", "replace") for line in kept]
        assert [("problem" in record) for record in records] == [text_of(line) is None for line in lines]
    else:
        assert all(len(line.split("\t")) == 2 for line in result.out.splitlines())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bpe", "word"])
def test_a_line_without_a_token_is_a_blank_one(toy: Toy, tmp_path: Path, kind: str) -> None:
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
    pieces = tokenizer.target_tokens(range(tokenizer.target_size))
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
    assert len(told) == line_translation.SHOWN_WARNINGS + 1
    assert told[-1] == "warning: 1,234 lines could not be translated and were left blank"
    assert done("translate", "--model", brief, "--on-error", "blank", "--quiet", stdin=b"\xff\n").err == ""


# ------------------------------------------------------------------------------------------------------------- flags


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


# ---------------------------------------------------------------------------------------------------------- progress


def shown_at_terminal(arguments: list[str], *, stdout: bool) -> str:
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


@pytest.mark.slow
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
    shown = shown_at_terminal(["--model", str(brief), *options], stdout=stdout)
    assert ("translating" in shown) == (told is not None)
    assert told is None or told in shown
