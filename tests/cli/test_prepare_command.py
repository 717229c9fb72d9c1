"""`prepare`: what it reports, and what a second call does."""

import json
from pathlib import Path

from tests.commands import done, tree


def test_preparing_the_same_again_does_nothing(workshop: Path) -> None:
    def times() -> dict[str, int]:
        return {path.name: path.stat().st_mtime_ns for path in Path("data/toy").iterdir()}

    before, tree_before = times(), tree(workshop)
    result = done("prepare", "toy.tsv", "--vocab-size", 400)
    assert (times(), tree(workshop)) == (before, tree_before)
    assert result.out == ""


def test_preparing_tells_counts_and_leakage(workshop: Path) -> None:
    random_split = done("prepare", "toy.tsv", "-o", "r", "--split", "random")
    grouped = done("prepare", "toy.tsv", "-o", "g")
    leaks = {}
    for folder, result in (("r", random_split), ("g", grouped)):
        manifest = json.loads(Path(folder, "manifest.json").read_text(encoding="utf-8"))
        leaks[folder] = manifest["leakage"]["test"]["source"]
        assert f"{leaks[folder]:.1%}" in result.err
        assert f"{manifest['splits']['train']['pairs']:,}" in result.err
        assert result.out == ""
    assert leaks["g"] == 0 < leaks["r"]
