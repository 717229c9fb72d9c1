"""The forms of a comparison: text, Markdown, JSON and its documentation, files."""

from pathlib import Path
from typing import Any

import pytest

from projtrans.data.data_folder import read_split
from tests.commands import done
from tests.comparison.cases import PROJECTION, SEEDS, STANDARD, compared


@pytest.mark.slow
def test_text_and_markdown_say_the_same(place: Path) -> None:
    arguments = ["compare", STANDARD, PROJECTION, "--prompt", "one | two *three*", "--threads", 1]
    text = done(*arguments)
    assert text.err == ""
    page = done(*arguments, "--format", "markdown").lines
    sentences = len(read_split(place / "data" / "toy", "test"))
    titles = [line.removeprefix("## ") for line in page if line.startswith("## ")]
    assert titles == [
        "Runs", "Settings that differ", "Time", "Multiply-adds of a forward pass, per target token",
        f"Test split, {sentences} sentences", "Loss per epoch (nats per token)", "Token accuracy per epoch",
        "Translations",
    ]  # fmt: skip
    assert all(title in text.lines for title in titles)
    for first, line in enumerate(page):
        if line.startswith("| ---"):
            columns = len(line.split("|"))
            rows = [page[first - 1], *page[first + 1 :]]
            for row in rows:
                if not row.startswith("|"):
                    break
                assert len(row.replace("\\|", "").split("|")) == columns, row
    assert any(line.startswith("| one \\| two \\*three\\* |") for line in page)
    assert "| beam size, length penalty | 5, 1 | 5, 1 |" in page
    assert (
        "| beam size, length penalty | 2, 0.5 | 2, 0.5 |"
        in done(*arguments, "--format", "markdown", "--beam-size", 2, "--length-penalty", 0.5).lines
    )
    bleu = next(line for line in page if line.startswith("| BLEU |"))
    for value in (f"{side['bleu']['mean']:.2f}" for side in compared(STANDARD, PROJECTION)["sides"]):
        assert value in bleu
        assert value in text.out


@pytest.mark.slow
def test_the_fields_of_the_json_object_are_documented(seeds: None) -> None:
    page = (Path(__file__).parent.parent.parent / "docs" / "files.md").read_text(encoding="utf-8")
    section = page.partition("## The object of `compare --format json`")[2]

    def names(value: Any) -> set[str]:
        if isinstance(value, list):
            return {name for item in value for name in names(item)}
        if not isinstance(value, dict):
            return set()
        return set(value) | {name for key, item in value.items() for name in names(item)
                             if key not in ("values", "translations")}  # fmt: skip

    missing = {name for name in names(compared(*SEEDS, "runs/wide")) if f"`{name}`" not in section}
    assert not missing


@pytest.mark.slow
def test_output_goes_to_a_file(place: Path) -> None:
    for form in ("text", "markdown", "json"):
        arguments = ["compare", STANDARD, PROJECTION, "--format", form, "--threads", 1]
        printed = done(*arguments).out
        result = done(*arguments, "--output", "deep/out")
        assert result.out == ""
        assert Path("deep/out").read_text(encoding="utf-8") == printed


@pytest.mark.slow
def test_the_figure_is_written_in_both_formats(place: Path) -> None:
    pytest.importorskip("matplotlib")
    done("compare", STANDARD, PROJECTION, "--figure", "curves.png", "--figure", "curves.svg")
    assert Path("curves.png").read_bytes().startswith(b"\x89PNG")
    svg = Path("curves.svg").read_text(encoding="utf-8")
    assert "<!-- standard -->" in svg
    assert "<!-- projection -->" in svg
