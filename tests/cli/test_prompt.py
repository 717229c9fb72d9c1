"""The prompt, on a pseudo-terminal and through pipes: it shows what is asked for, and says what is wrong."""

import os
import re
from pathlib import Path

import pytest

from projtrans import Translator
from projtrans.model.alignment import averaged
from tests.cli.terminal import PATIENCE, at_terminal
from tests.commands import Result, cli, done, run
from tests.toy import KINDS, Toy


def piped(*lines: str, options: tuple[str, ...] = ()) -> Result:
    """What the prompt does with lines from a pipe."""
    stdin = "".join(f"{line}\n" for line in lines)
    return cli("translate", "--interactive", "--quiet", *options, stdin=stdin)


def answers(err: str) -> list[str]:
    """What stands on standard error, without the prompts."""
    return [line for line in (line.removeprefix("> ").lstrip("> ") for line in err.split("\n")) if line.strip()]


@pytest.fixture
def folder(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The toy's folder as current folder; these tests change nothing in it."""
    monkeypatch.chdir(toy.folder)
    return toy.folder


def test_what_is_wrong_is_said_in_a_line_and_the_prompt_goes_on(folder: Path) -> None:
    wrong = [
        (":nonsense", "no such command"),
        (":", "no such command"),
        (":beam", "whole number"),
        (":beam 0", "whole number"),
        (":beam many", "whole number"),
        (":beam ٣", "whole number"),
        (":beam 1000000000000", "whole number"),
        (":beam 000000012345678", "whole number"),
        (":alternatives -1", "whole number"),
        (":attention", "nothing has been translated yet"),
        (":model nowhere", "no such folder"),
    ]
    result = piped(*(line for line, _ in wrong), "three one four")
    assert result.status == 0
    assert result.out == done("translate", "--model", folder / "runs" / "latest", "three one four").out
    said = answers(result.err)
    assert len(said) == len(wrong)
    for line, (_, reason) in zip(said, wrong, strict=True):
        assert reason in line


def test_beam_and_alternatives_are_those_of_the_command(folder: Path) -> None:
    model = folder / "runs" / "latest"
    result = piped(":beam 2", "seven nine", ":alternatives 3", "seven nine", ":alternatives", "seven nine")
    one = done("translate", "--model", model, "--beam-size", 2, "seven nine").out
    options = ("--beam-size", 2, "--n-best", 3, "--format", "tsv")
    three = [line.split("\t") for line in done("translate", "--model", model, *options, "seven nine").lines]
    shown = result.out.split("\n")[:-1]
    assert [shown[0], shown[4]] == [one.strip()] * 2
    assert [line.split(maxsplit=1)[1] for line in shown[1:4]] == [text for _, text in three]
    for line, (score, _) in zip(shown[1:4], three, strict=True):
        assert float(line.split()[0]) == pytest.approx(float(score), abs=1e-3)


def test_two_colons_translate_what_begins_with_one(folder: Path) -> None:
    model = folder / "runs" / "latest"
    result = piped("::beam 3", ":::")
    assert result.out == done("translate", "--model", model, ":beam 3", "::").out


@pytest.mark.parametrize("kind", KINDS)
def test_the_model_is_described_and_loaded(folder: Path, kind: str) -> None:
    result = piped(f":model runs/tiny-{kind}", "three one four", options=("--engine", "torch", "--beam-size", "3"))
    path = folder / "runs" / f"tiny-{kind}"
    translator = Translator.load(path, "cpu")
    assert result.out == f"{translator.with_decoding(beam_size=3)('three one four')}\n"
    facts = dict(re.split(r"  +", line, maxsplit=1) for line in answers(result.err))
    assert facts["run"] == f"runs/tiny-{kind}"
    assert facts["attention"] == f"{kind}, 2 heads"
    assert facts["search"] == "beam 3, length penalty 1"
    assert facts["parameters"] == f"{sum(weights.numel() for weights in translator.model.parameters()):,}"
    sigma = translator.model.decoder[0].cross.attention.sigma().tolist()  # type: ignore[union-attr]
    shown = facts.get("σ decoder.0.cross.attention")
    if kind == "projection":
        assert shown is not None
        assert [float(value) for value in shown.split()] == pytest.approx(sigma, rel=1e-3)
    else:
        assert shown is None


@pytest.mark.parametrize(("terminal", "shades"), [("xterm", "·░▒▓█"), ("dumb", ".:+#@")])
def test_attention_is_that_of_the_last_translation(
    folder: Path, monkeypatch: pytest.MonkeyPatch, terminal: str, shades: str
) -> None:
    monkeypatch.setenv("TERM", terminal)
    text = "three one four"
    translator = Translator.load(folder / "runs" / "latest", "cpu")
    tokens = translator.translate([text])[0].best.tokens
    weights_TS = averaged(translator.cross_attention([text], [tokens])[0])
    said = answers(piped(text, ":attention").err)
    assert said[0] == "layer 1 of 1, mean of 2 heads"
    assert all(len(line) <= 80 for line in said)
    ends = [float(line.rsplit(maxsplit=1)[1]) for line in said if re.search(r" \d\.\d\d$", line)]
    assert ends == pytest.approx(weights_TS.amax(1).tolist(), abs=0.0051)
    assert all(f"  {shade} 0." in said[-1] for shade in shades), said


def test_attention_of_layers_heads_and_parts(folder: Path) -> None:
    wrong = ["7", "1.9", "x", "1.", "0", "all.1"]
    lines = ["three one four", ":attention all", ":attention 1.2", *(f":attention {value}" for value in wrong)]
    err = piped(*lines, "One two. " * 40, ":attention").err
    assert "head 2 of 2" in err
    assert err.count("mean of 2 heads") == 1 + 40
    assert err.count("expected 1 to") == len(wrong)


@pytest.mark.slow
def test_where_blocks_cannot_be_written_there_are_none(folder: Path) -> None:
    settings = {**os.environ, "TERM": "xterm", "PYTHONIOENCODING": "ascii"}
    stdin = b"three one four\n:attention\n"
    result = run("translate", "--interactive", folder=folder, stdin=stdin, env=settings)
    assert result.status == 0
    assert "@ 0.8" in result.err
    assert result.err.isascii()


def test_help_names_every_command(folder: Path) -> None:
    result = piped(":help")
    for name in (":alternatives", ":attention", ":beam", ":model", ":help", ":quit", "::"):
        assert name in result.err
    assert all(len(line) <= 80 for line in answers(result.err))


@pytest.mark.slow
def test_commands_at_a_terminal(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Line by line, as one who waits for each answer."""
    monkeypatch.chdir(folder)
    (wanted,) = done("translate", "three one four").lines
    with at_terminal("translate") as typist:
        for keys, shown in [
            (":nope\n", "no such command"),
            (":help\n", ":alternatives [N]"),
            ("three one four\n", f"{wanted}\r\n"),
            (":attention\n", "@ 0.8"),
            (":alternatives\n", "5 translations"),
            ("three one four\n", f"  {wanted}\r\n"),
            (":model\n", "parameters"),
        ]:
            typist.until("> ")
            typist.press(keys)
            typist.until(shown)
        typist.until("> ")
        typist.press("\x04")
        assert typist.process.wait(PATIENCE) == 0
    assert "Traceback" not in typist.seen
