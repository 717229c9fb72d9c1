"""The corpus metrics and the paired bootstrap."""

import pytest

from projtrans.evaluation import metrics
from projtrans.evaluation.metrics import check_bootstrap_seed, paired_bootstrap


def test_certain_and_small_differences_are_told_apart() -> None:
    references = [f"the answer to question {number} is {number * 7}" for number in range(60)]
    almost = [*references[:-1], "no answer"]
    (chance,) = paired_bootstrap("bleu", references, [almost], references)
    assert chance.p_value > 0.05
    (certain,) = paired_bootstrap("chrf", ["no idea"] * 60, [references], references)
    assert (certain.score, certain.p_value) == (pytest.approx(100), pytest.approx(1 / 1001))


@pytest.mark.parametrize("metric", ["bleu", "chrf"])
def test_systems_tested_together_have_the_figures_that_each_has_alone(metric: str) -> None:
    references = [f"the answer to question {number} is {number * 7}" for number in range(40)]
    spoilt = [[text if number % step else "no idea" for number, text in enumerate(references)] for step in (2, 3, 7, 9)]
    base, *systems = spoilt
    together = paired_bootstrap(metric, base, systems, references)
    assert together == [paired_bootstrap(metric, base, [system], references)[0] for system in systems]
    assert len({test.p_value for test in together} | {test.score for test in together}) > 3


@pytest.mark.parametrize("seed", ["0", "7", " 12 ", "None", "none"])
def test_a_seed_that_sacrebleu_takes_is_taken(monkeypatch: pytest.MonkeyPatch, seed: str) -> None:
    monkeypatch.setenv("SACREBLEU_SEED", seed)
    check_bootstrap_seed()
    (test,) = paired_bootstrap("bleu", ["a b c d", "e"], [["a b c d", "f"]], ["a b c d", "e f"])
    assert f"seed:{'none' if seed.lower() == 'none' else int(seed)}" in test.signature


def test_the_bootstrap_has_a_thousand_resamples() -> None:
    assert metrics.RESAMPLES == 1000
