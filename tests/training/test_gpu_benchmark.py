"""The measuring script for GPUs: it runs, and finds what is wrong."""

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from projtrans.model.flops import multiply_adds
from projtrans.training.static_updates import StaticUpdates
from tests.training.bench import CPU, Bench, settings_of


@pytest.fixture
def gpu() -> ModuleType:
    specification = importlib.util.spec_from_file_location(
        "gpu", Path(__file__).parent.parent.parent / "benchmarks" / "gpu.py"
    )
    assert specification is not None
    assert specification.loader is not None
    sys.modules["gpu"] = module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


CONFIGS = "sanger2026-projection,tatoeba"


@pytest.mark.slow
def test_the_measurement_runs(gpu: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--tiny", "--device", "cpu", "--configs", CONFIGS, "--peak", "1"])
    gpu.main()
    out = capsys.readouterr().out
    assert len(re.findall(r"static: losses of \d+ updates within \d\.\de-0[4-9] of `none`", out)) == 2
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in out.splitlines() if line[:1] == "|"]
    assert [row[:2] for row in rows[2:]] == [[name, mode] for name in CONFIGS.split(",") for mode in ("none", "static")]
    for row in rows[2:]:
        assert len(row) == len(gpu.HEAD)
        assert float(row[4]) > 0
        assert float(row[8].rstrip("%")) == pytest.approx(float(row[7]) * 100, abs=1.0)
    assert [row[5] == "–" for row in rows[2:]] == [True, False] * 2


@pytest.mark.parametrize("wrong", ["batch", "rate"])
def test_the_measurement_finds_a_wrong_graph(gpu: ModuleType, monkeypatch: pytest.MonkeyPatch, wrong: str) -> None:
    """One that replays what stood at a place when it was recorded."""
    true, batch = StaticUpdates._finish, StaticUpdates._batch

    def finish(self: StaticUpdates) -> None:
        self.rate.zero_()
        true(self)

    if wrong == "rate":
        monkeypatch.setattr(StaticUpdates, "_finish", finish)
    else:
        monkeypatch.setattr(StaticUpdates, "_batch", lambda self, schedule, number: batch(self, schedule, 0))
    monkeypatch.setattr(gpu, "TINY", [*gpu.TINY, "training.batch_sentences=8"])
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--tiny", "--device", "cpu", "--configs", "sanger2026-projection"])
    with pytest.raises(SystemExit, match="so it is wrong"):
        gpu.main()


def test_operations_are_those_of_the_arithmetic(gpu: ModuleType, bench: Bench) -> None:
    """Six a multiply-add of every pair: forward, and twice that backward."""
    settings = settings_of("training.compile=static")
    trainer = bench.trainer(settings)
    data = gpu.Data(bench.tokenizer, {})
    expected = sum(
        6
        * multiply_adds(
            settings.model, bench.tokenizer.target_size, source=len(example.source), target=len(example.target)
        ).total
        for example in trainer.plan.examples
    )
    assert gpu.flops(settings, data, trainer) == expected


def test_the_longest_name_of_a_device_decides(gpu: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {}
    for name in ("NVIDIA H100 80GB HBM3", "NVIDIA H100 PCIe", "NVIDIA H200", "NVIDIA A100-SXM4-40GB", "Tesla V100"):
        monkeypatch.setattr(gpu.devices, "describe", lambda device, name=name: name)
        found[name] = gpu.peak_of(CPU)
    assert list(found.values()) == [989, 756, 989, 312, None]
