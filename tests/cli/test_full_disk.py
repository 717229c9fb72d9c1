"""A full disk and a closed standard output: one line of error, and nothing lost."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.cases import one_error, tiny
from tests.commands import Result, cli, command, full_disk, tree
from tests.toy import Toy

WRITING = [
    (["prepare", "toy.tsv", "-o", "data/new"], 1000),
    (["prepare", "toy.tsv", "--vocab-size", "401", "--force"], 1000),
    (tiny("--run", "runs/new"), 100_000),  # room for tokenizer and configuration, none for the state
    (tiny("--run", "runs/new"), 1000),
    (["train", "--resume", "--set", "training.epochs=9"], 20_000),
    (["evaluate", "--beam-size", "1", "--output", "scores.json"], 100),
    (["evaluate", "--beam-size", "1", "--hypotheses", "hypotheses"], 100),
    (["compare", "runs/tiny-standard", "runs/tiny-projection", "--output", "old"], 100),
    (["translate", "--input", "data/toy/test.src", "--output", "old"], 100),
]


@pytest.mark.parametrize(("arguments", "size"), WRITING)
def test_a_full_disk_is_one_line_and_loses_nothing(workshop: Path, arguments: list[str], size: int) -> None:
    Path("old").write_text("old\n", encoding="utf-8")
    before = tree(workshop)
    with full_disk(size):
        result = cli(*arguments)
    after = tree(workshop)
    one_error(result, 1)
    log = "runs/tiny-projection/metrics.jsonl"  # grows by whole lines; a resumed run cuts it back
    assert {name: after.get(name) for name in before if name != log} == {n: before[n] for n in before if n != log}
    assert not [name for name in after if Path(name).name.startswith(".")]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("arguments", [["translate", "one", "two"], ["evaluate", "--beam-size", "1", "--json"]])
def test_standard_output_on_a_full_disk_is_an_error(workshop: Path, arguments: list[str]) -> None:
    with open("/dev/full", "wb") as full:
        finished = subprocess.run(command(*arguments), stdout=full, stderr=subprocess.PIPE, check=False)
    one_error(Result(finished.returncode, "", finished.stderr.decode("utf-8")), 1)


@pytest.mark.slow
def test_a_closed_standard_output_is_an_error_only_for_a_command_that_writes_to_it(toy: Toy, tmp_path: Path) -> None:
    (tmp_path / "in").write_text("one\n", encoding="utf-8")
    base = f"{sys.executable} -m projtrans translate --model {toy.run('standard')}"
    for rest, status in ((f"--input {tmp_path}/in --output {tmp_path}/out", 0), ("one", 1), (f"< {tmp_path}/in", 1)):
        finished = subprocess.run(f"{base} {rest} >&-", shell=True, capture_output=True, text=True, check=False)
        assert finished.returncode == status, finished.stderr
        assert finished.stderr.count("\n") == status
    assert (tmp_path / "out").read_text(encoding="utf-8").count("\n") == 1
