"""The prompt of `translate` on a pseudo-terminal."""

from pathlib import Path

import pytest

from tests.cli.terminal import PATIENCE, at_terminal
from tests.commands import done, run

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("leave", [":quit\n", "\x04"])
def test_the_prompt_translates_until_one_leaves(workshop: Path, leave: str) -> None:
    texts = ["three one four", "nine eight"]
    wanted = done("translate", *texts).lines
    with at_terminal("translate") as typist:
        for text, translation in zip(texts, wanted, strict=True):
            typist.until("> ")
            typist.press(f"{text}\n")
            typist.until(f"{translation}\r\n")
        typist.until("> ")
        typist.press("\n")
        typist.until("> ")
        typist.press(leave)
        assert typist.process.wait(PATIENCE) == 0
    assert "Traceback" not in typist.seen


def test_the_prompt_forgets_a_line_at_ctrl_c_and_remembers_the_others(
    workshop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(workshop / "state"))
    wanted = done("translate", "seven").lines[0]
    with at_terminal("translate") as typist:
        typist.until("> ")
        typist.press("nonsense")
        typist.until("nonsense")
        typist.interrupt_until("> ")
        typist.press("seven\n")
        typist.until(f"{wanted}\r\n")
        typist.until("> ")
        typist.press(":q\n")
        assert typist.process.wait(PATIENCE) == 0
    history = (workshop / "state" / "projtrans" / "history").read_text(encoding="utf-8")
    assert "seven" in history.split("\n")
    assert "nonsense" not in history


def test_the_prompt_writes_nothing_but_translations_to_standard_output(workshop: Path) -> None:
    """With standard output in a file, prompt and messages stay on the terminal."""
    wanted = done("translate", "three one four", "seven").out
    with Path("out").open("wb") as out, at_terminal("translate", stdout=out.fileno()) as typist:
        typist.press("three one four\nseven\n:quit\n")
        assert typist.process.wait(PATIENCE) == 0
    assert Path("out").read_text(encoding="utf-8") == wanted


def test_interactive_from_a_pipe_is_data_only_too(workshop: Path) -> None:
    result = run("translate", "--interactive", "--quiet", folder=workshop, stdin=b"three one four\nseven\n")
    assert result.status == 0
    assert result.out == done("translate", "three one four", "seven").out
