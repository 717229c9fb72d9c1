"""One more attention takes twenty lines: a registered Laplace kernel does what every attention does.

Axes: B sentences, T queries, S keys, H heads, K head width.
"""

import inspect
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import projtrans
from projtrans.config import build, describe
from projtrans.errors import ConfigError
from projtrans.model.attention_statistics import attention_statistics
from projtrans.model.batching import Batch
from projtrans.model.multihead import VARIANTS, register, sigmas
from projtrans.model.transformer import ModelConfig
from tests.attention_cases import ROLES, Use, close, meeting, of
from tests.model.every_attention import CHECKS, DEAR_CHECKS
from tests.model.laplace import LaplaceAttention, LaplaceConfig
from tests.tiny_training import BOS, EOS, PAD, fresh, pairs, train, translate


@pytest.fixture(name="laplace", scope="module", autouse=True)
def registered() -> Iterator[None]:
    """Register the kind while these tests run."""
    known = dict(VARIANTS)
    register(LaplaceAttention)
    yield
    del VARIANTS["laplace"]
    assert known == VARIANTS


SECTIONS: list[dict[str, Any]] = [
    {},
    {"normalize": "head", "learn_sigma": "module", "values": "keys", "decay": "learned"},
    {"normalize": "model", "learn_sigma": "none", "values": "raw_keys", "tie_query_key": True, "decay": 2.5},
]
USES = [
    Use(f"laplace-{number}-{role}", {"kind": "laplace"} | section, role)
    for (number, section), role in itertools.product(enumerate(SECTIONS), ROLES)
]
uses = pytest.mark.parametrize("use", USES, ids=str)


def test_it_is_twenty_lines() -> None:
    lines = inspect.getsource(LaplaceConfig) + inspect.getsource(LaplaceAttention)
    assert len([line for line in lines.splitlines() if line.strip()]) <= 20
    files = Path(projtrans.__file__).parent.rglob("*.py")
    assert not [file.name for file in files if "laplace" in file.read_text(encoding="utf-8").lower()]


@uses
@pytest.mark.parametrize("check", CHECKS + DEAR_CHECKS, ids=lambda check: check.__name__)
def test_it_passes_what_every_attention_passes(check: Callable[[Use], None], use: Use) -> None:
    check(use)


@uses
def test_its_weights_are_its_equation(use: Use) -> None:
    made = of(use)
    q, kv = meeting(made)
    weights, k = made.weights(q, kv), made.keys(kv)
    q = q if made.normalize == "none" else q / made._length(q)
    difference = (q[..., :, None, :] - k[..., None, :, :]).abs().sum(-1)
    z = torch.exp(-difference / made.log_sigma.exp().view(-1, 1, 1))
    if made.decay is not None:
        s = torch.arange(z.shape[3], dtype=torch.float64)
        t = s[z.shape[3] - z.shape[2] :, None] if use.role == "encoder" else s[-1]
        z = z * torch.exp(-(t - s).abs() / made.log_tau.exp().view(-1, 1, 1))
    close(weights, z / z.sum(-1, keepdim=True), 1e-12)


@pytest.mark.slow
def test_the_whole_model_learns_with_it_and_searches_to_the_right_translations() -> None:
    """With caches and beams: it reproduces its training data, and its σ is reported like that of any other."""
    model = fresh({"kind": "laplace"})
    train(model, 300)
    sources, targets = pairs()
    for beam_size in (1, 4):
        found = translate(model, sources[:60], beam_size)
        expected = [[token for token in row if token not in (PAD, EOS)] for row in targets[:60].tolist()]
        right = sum(ours == theirs for ours, theirs in zip(found, expected, strict=True))
        assert right >= 45, f"{right} of 60 with a beam of {beam_size}"
    reported = sigmas(model)
    assert len(reported) == 3
    assert all(len(values) == 2 and values != [1.0, 1.0] for values in reported.values())


def test_its_statistics_are_reported_like_those_of_any_other() -> None:
    """σ, τ, entropy, effective keys and saturation, by hand from the Laplace kernel of one sentence."""
    model = fresh({"kind": "laplace", "decay": 2.0}).double().eval()
    source, target = (side[:1] for side in pairs())
    before = torch.cat([torch.tensor([[BOS]]), target[:, :-1]], 1)
    batch = Batch.of(source, source != PAD, before, target, target != PAD)
    found = attention_statistics(model, [batch], PAD)
    assert [sorted(values) for values in found.values()] == [["effective_keys", "entropy", "saturated", "sigma"]] * 3
    encoder = model.encoder[0].self_attention
    q, kv = encoder.attention.project(
        encoder.before(model._embed(model.source_embedding, model.source_positions, source, 0))
    )
    real = int((source != PAD).sum())
    q, k = q[0, :, :real], kv.k_BHSK[0, :, :real]
    s = -(q[:, :, None] - k[:, None]).abs().sum(-1)  # σ = 1
    s -= (torch.arange(real)[:, None] - torch.arange(real)).abs() / 2.0
    p = s.exp() / s.exp().sum(-1, keepdim=True)
    entropy = -(p * p.log()).sum(-1)
    (figures,) = (values for name, values in found.items() if name.startswith("encoder"))
    assert figures["sigma"] == [1.0, 1.0]
    for name, wanted in (
        ("entropy", entropy), ("effective_keys", entropy.exp()), ("saturated", (p.amax(-1) > 0.99).double()),
    ):  # fmt: skip
        assert figures[name] == pytest.approx(wanted.mean(-1).tolist(), abs=6e-5), name


def test_a_whole_model_steps_as_it_decodes() -> None:
    model = fresh({"kind": "laplace", "decay": "learned"}).double()
    source, target = (side[:8] for side in pairs())
    whole = model.output(model(source, source != PAD, target))
    memory, past = model.encode(source, source != PAD), [None]
    for t in range(target.shape[1]):
        logits, past = model.step(target[:, t : t + 1], memory, past)  # type: ignore[assignment,arg-type]
        close(logits[:, 0], whole[:, t])


PROBLEMS = [
    ("a setting of another kind", {"learn_scale": "head"}, "learn_scale", ["kind laplace", "learn_sigma"]),
    ("a distance of its own it has not", {"distance": "squared"}, "distance", ["kind laplace"]),
    ("what all kinds refuse", {"values": "raw_keys"}, "values", ["normalize"]),
    ("its own range", {"sigma": 0}, "sigma", ["> 0"]),
    ("its own words", {"learn_sigma": "heads"}, "learn_sigma", ["none", "module", "head"]),
]


@pytest.mark.parametrize(("raw", "path", "words"), [row[1:] for row in PROBLEMS], ids=[row[0] for row in PROBLEMS])
def test_its_settings_are_refused_in_one_line_like_any_other(raw: dict[str, Any], path: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        build(ModelConfig, {"attention": {"kind": "laplace"} | raw}, "model")
    message = str(caught.value)
    assert message.startswith(f"model.attention.{path}: ")
    assert all(word in message for word in words)
    assert len(message.splitlines()) == 1


def test_it_is_offered_and_described_with_the_others() -> None:
    with pytest.raises(ConfigError, match=r"model\.attention\.kind: .*laplace"):
        build(ModelConfig, {"attention": {"kind": "gauss"}}, "model")
    described = {path for path, *_ in describe(ModelConfig, "model")}
    assert {"model.attention.sigma (laplace)", "model.attention.decay (laplace)"} <= described
