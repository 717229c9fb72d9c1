"""`translate` with arguments, pipes and files: a line of output for a line of input, whatever the shell does."""

import itertools
import json
import re
import select
import shlex
import signal
import subprocess
from pathlib import Path

import pytest

from tests.cli.cases import PATIENCE
from tests.commands import cli, command, done, run
from tests.toy import spell


@pytest.mark.parametrize(
    ("reason", "stdin", "blank"),
    [
        ("the README's", b"Hello.\n\nWhere is Tom?\n", [False, True, False]),
        ("no final newline", b"one\ntwo", [False, False]),
        ("Windows line ends", b"one\r\n\r\ntwo\r\n", [False, True, False]),
        ("a byte-order mark", b"\xef\xbb\xbfone\n", [False]),
        ("blank lines at both ends", b"\n\none\n\n\n", [True, True, False, True, True]),
        ("one newline", b"\n", [True]),
        ("nothing", b"", []),
    ],
)
def test_a_filter_writes_a_line_for_a_line(workshop: Path, reason: str, stdin: bytes, blank: list[bool]) -> None:
    result = done("translate", stdin=stdin)
    assert [not line for line in result.lines] == blank
    assert result.err == ""
    for option in (["--input", "-"], ["--output", "-"]):
        assert done("translate", *option, stdin=stdin) == result
    Path("in").write_bytes(stdin)
    silent = done("translate", "--input", "in", "--output", "out")
    assert silent.out == ""
    assert Path("out").read_text(encoding="utf-8") == result.out


def test_line_ends_of_windows_change_no_translation(workshop: Path) -> None:
    assert done("translate", stdin=b"one two\r\nthree\r\n").out == done("translate", stdin=b"one two\nthree\n").out


def test_a_filter_names_the_line_that_is_not_utf8(workshop: Path) -> None:
    result = cli("translate", stdin=b"one\ntwo\nthr\xffe\n")
    assert result.status == 1
    assert len(result.errors) == 1
    assert "standard input" in result.errors[0]
    assert re.search(r"\b3\b", result.errors[0])


def test_text_is_translated_one_a_line_and_stdin_is_not_read(workshop: Path) -> None:
    result = done("translate", "one", "", "two three", stdin="four\nfive\n")
    assert len(result.lines) == 3
    assert result.lines[1] == ""
    assert done("translate", "two three").lines == result.lines[2:]


def test_an_argument_that_is_not_utf8_is_translated_all_the_same(workshop: Path) -> None:
    text = b"one \xff two".decode("utf-8", "surrogateescape")  # as Python reads its arguments
    for options in (["--format", "text"], ["--format", "json"], ["--format", "json", "--output", "out"]):
        assert done("translate", *options, text).err == ""
    json.loads(Path("out").read_text(encoding="utf-8"))


@pytest.mark.slow
def test_the_module_is_the_command(workshop: Path) -> None:
    stdin, text = b"one\n\ntwo three\n", b"one \xff two".decode("utf-8", "surrogateescape")
    result = run("translate", folder=workshop, stdin=stdin)
    assert result == done("translate", stdin=stdin)
    assert len(result.lines) == 3
    assert run("translate", "--format", "json", text, folder=workshop) == done("translate", "--format", "json", text)


@pytest.mark.slow
def test_a_filter_answers_before_its_input_ends(workshop: Path) -> None:
    """A program at both ends of the pipe writes a line and waits for its translation."""
    process = subprocess.Popen(command("translate"), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        for text in ("one two", "three"):
            process.stdin.write(f"{text}\n".encode())
            process.stdin.flush()
            ready, _, _ = select.select([process.stdout], [], [], 20.0)
            assert ready, "no translation while the input stays open"
            assert process.stdout.readline().strip()
    finally:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_a_reader_that_leaves_early_is_no_error(workshop: Path) -> None:
    """As `projtrans translate < file | head -1` does."""
    Path("in").write_text("".join(f"{spell(str(number))}\n" for number in range(6000)), encoding="utf-8")
    with Path("in").open("rb") as source:
        process = subprocess.Popen(
            command("translate", "--beam-size", 1), stdin=source, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().strip()
        process.stdout.close()
        assert process.stderr.read() == b""
        process.wait(PATIENCE)
        process.stderr.close()


def test_closed_standard_input_is_no_traceback(workshop: Path) -> None:
    line = f"{shlex.join(command('translate'))} <&-"
    finished = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=False)
    assert "Traceback" not in finished.stderr
    assert finished.stdout == ""


@pytest.mark.slow
def test_a_signal_to_a_filter_is_no_traceback(workshop: Path) -> None:
    process = subprocess.Popen(
        command("translate"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdin is not None
    process.stdin.write(b"one\n" * 5000)
    process.stdin.flush()
    assert process.stdout is not None
    assert process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert b"Traceback" not in err
    assert err.count(b"\n") <= 1


def test_commands_do_not_depend_on_the_order_of_their_options(workshop: Path) -> None:
    options = [["--beam-size", 2], ["--format", "json"], ["--n-best", 2]]
    found = {done("translate", "one two", *itertools.chain(*order)).out for order in itertools.permutations(options)}
    assert len(found) == 1
