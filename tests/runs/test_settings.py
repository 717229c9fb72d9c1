"""The settings that there are: any valid ones survive, those that do not go together are refused, all are described.

Oracles: `build` undoes `dump`; `dataclasses.fields` for what must be described; lists by hand of what settings affect.
"""

import dataclasses
import math
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from projtrans import config
from projtrans.config import build, describe, dump, find, read_yaml, to_yaml
from projtrans.data.corpus import CorpusConfig
from projtrans.errors import RunError
from projtrans.model.attention import AttentionConfig, ProjectionConfig, SigmaConfig, StandardConfig
from projtrans.model.transformer import EmbeddingsConfig, ModelConfig
from projtrans.runs.run_folder import Run
from projtrans.runs.settings import Config, affecting, of_run, resumed
from projtrans.search.decoding import DecodingConfig
from tests.refusals import problem

CONFIGS = Path(__file__).parent.parent.parent / "configs"

# ----------------------------------------------------------------------------------------------------- valid values

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


def values_of(hint: Any, bounds: dict[str, float]) -> st.SearchStrategy[Any]:
    """Any value that a field of this type and range may hold."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return st.one_of(*(values_of(member, bounds) for member in typing.get_args(hint)))
    if typing.get_origin(hint) is Literal:
        return st.sampled_from(typing.get_args(hint))
    if dataclasses.is_dataclass(hint):
        return sections(typing.cast(type, hint))
    if hint is int:
        low = max(bounds.get("≥", -(10**6)), bounds.get(">", -(10**6)) + 1)
        return st.integers(math.ceil(low), int(low) + 64) | st.integers(math.ceil(low), 10**9)
    if hint is float:
        low, high = bounds.get("≥", bounds.get(">")), bounds.get("≤", bounds.get("<"))
        return st.floats(
            low, high, exclude_min=">" in bounds, exclude_max="<" in bounds, allow_nan=False, allow_infinity=False
        )
    return {str: TEXT, bool: st.booleans(), type(None): st.none()}[hint]


@st.composite
def sections(draw: st.DrawFn, section: Any) -> Any:
    """A section with any values that its own checks admit."""
    if hasattr(section, "kinds"):
        section = draw(st.sampled_from(list(section.kinds().values())))
    hints = typing.get_type_hints(section)
    fields = dataclasses.fields(section)
    drawn = {
        field.name: field.default if field.name == "kind" else draw(_value(section, field, hints[field.name]))
        for field in fields
    }
    if section is ModelConfig and drawn["head_width"] is None:
        drawn["width"] = 2 * drawn["heads"] * draw(st.integers(1, 9))
    if section is SigmaConfig and None not in (drawn["encoder"], drawn["decoder"]):  # nothing is left for it to do
        drawn["self"] = "auto"
    if drawn.get("values") == "raw_keys" and drawn["normalize"] == "none":  # these are the keys
        drawn["values"] = "keys"
    if section is ProjectionConfig:  # a learned σ on unit vectors starts at 0.1 or more
        large = {
            name: max(sigma, 0.1) if isinstance(sigma, float) else sigma for name, sigma in dump(drawn["sigma"]).items()
        }
        drawn["sigma"] = SigmaConfig(**large)
    if section is DecodingConfig and drawn["max_length"] is not None:
        drawn["min_length"] = min(drawn["min_length"], drawn["max_length"])
    if section is EmbeddingsConfig and drawn["init"] != "cooccurrence":
        drawn["window"] = None
    if section is CorpusConfig and drawn["direction"] in ("en-es", "es-en"):
        drawn["name"] = draw(st.sampled_from(["phrasebook", "tatoeba-spa-eng"]))
    if section is Config and drawn["model"].mask_padding:
        drawn["training"] = dataclasses.replace(drawn["training"], padding_in_loss=False)
    if section is Config and not any(value for name, value in vars(drawn["model"]).items() if "dropout" in name):
        drawn["training"] = dataclasses.replace(drawn["training"], r_drop=None)
    if section is Config and drawn["corpus"].tokenizer == "word":
        drawn["training"] = dataclasses.replace(drawn["training"], subword_dropout=0.0)
    return section(**drawn)


def _value(section: type, field: "dataclasses.Field[Any]", hint: Any) -> st.SearchStrategy[Any]:
    """The values of one field that no other field can make wrong."""
    narrow: dict[tuple[str, str], st.SearchStrategy[Any]] = {
        ("ModelConfig", "width"): st.integers(1, 512).map(lambda half: 2 * half),
        ("CorpusConfig", "name"): TEXT.filter(lambda name: name.strip()),
        ("TrainingConfig", "optimizer"): st.just("adamw"),
        ("TrainingConfig", "by_length"): st.just(True),
    }
    return narrow.get((section.__name__, field.name), values_of(hint, field.metadata.get("bounds", {})))


@pytest.mark.slow
@settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.too_slow])
@given(sections(Config))
@example(Config())
def test_build_undoes_dump(whole: Config) -> None:
    assert build(Config, dump(whole)) == whole


@pytest.mark.slow
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(sections(Config))
def test_a_configuration_survives_its_yaml_file(tmp_path_factory: pytest.TempPathFactory, whole: Config) -> None:
    path = tmp_path_factory.mktemp("round") / "config.yaml"
    path.write_text(to_yaml(dump(whole)), encoding="utf-8")
    assert build(Config, read_yaml(path)) == whole


# -------------------------------------------------------------------------------------------------- values together

TOGETHER = [
    ("heads do not divide", {"model": {"width": 10, "heads": 4}}, "model.heads: ", "10"),
    ("odd width", {"model": {"width": 9, "heads": 3}}, "model.width: ", "even"),
    ("rmsprop decays nothing", {"training": {"optimizer": "rmsprop"}}, "training.weight_decay: ", "0"),
    (
        "padding learnt but masked",
        {"training": {"padding_in_loss": True}},
        "training.padding_in_loss: ",
        "mask_padding",
    ),
    (
        "two passes without dropout",
        {"model": {"dropout": 0.0}, "training": {"r_drop": 5.0}},
        "training.r_drop: ",
        "model.dropout",
    ),
    ("one weight to average", {"training": {"average_checkpoints": 1}}, "training.average_checkpoints: ", "≥ 2"),
    (
        "no subwords to drop",
        {"corpus": {"tokenizer": "word"}, "training": {"subword_dropout": 0.1}},
        "training.subword_dropout: ",
        "word tokenizer has no subwords",
    ),
    ("random batches of no size", {"training": {"by_length": False}}, "training.by_length: ", "batch_sentences"),
    (
        "a window without co-occurrences",
        {"model": {"embeddings": {"window": 3}}},
        "model.embeddings.window: ",
        "cooccurrence, not to normal",
    ),
    ("no corpus", {"corpus": {"name": " "}}, "corpus.name: ", "phrasebook"),
    (
        "direction of another corpus",
        {"corpus": {"name": "x.tsv", "direction": "en-es"}},
        "corpus.direction: ",
        "forward",
    ),
]


@pytest.mark.parametrize(("reason", "raw", "start", "part"), TOGETHER, ids=[row[0] for row in TOGETHER])
def test_values_that_do_not_go_together_are_named_with_their_path(
    reason: str, raw: config.Raw, start: str, part: str
) -> None:
    message = problem(Config, raw)
    assert message.startswith(start), reason
    assert part in message.removeprefix(start), reason


# ------------------------------------------------------------------------------------------------------------ kinds


def test_kind_chooses_the_settings_that_exist() -> None:
    assert build(AttentionConfig, {"kind": "standard"}) == StandardConfig()
    assert build(AttentionConfig, {"kind": "projection", "values": "keys"}) == ProjectionConfig(values="keys")
    assert build(AttentionConfig, {"sigma": {"cross": 2}}) == ProjectionConfig(sigma=SigmaConfig(cross=2.0))


OTHER_KIND = [
    ("standard", {"sigma": {"self": 0.3}}),
    ("standard", {"learn_sigma": "none"}),
    ("standard", {"distance": "euclidean"}),
    ("projection", {"learn_scale": "head"}),
]


@pytest.mark.parametrize(("kind", "raw"), OTHER_KIND, ids=[next(iter(raw)) for _, raw in OTHER_KIND])
def test_a_setting_of_the_other_kind_is_refused_by_the_name_of_the_kind(kind: str, raw: config.Raw) -> None:
    message = problem(ModelConfig, {"attention": {"kind": kind, **raw}}, "model")
    assert message.startswith(f"model.attention.{next(iter(raw))}: ")
    assert kind in message


SHARED = [{"normalize": "head"}, {"values": "keys"}, {"tie_query_key": True}, {"decay": "learned"}, {"decay": 2.5}]


@pytest.mark.parametrize("raw", SHARED, ids=str)
@pytest.mark.parametrize("kind", ["standard", "projection"])
def test_what_every_attention_can_do_is_a_setting_of_both_kinds(kind: str, raw: config.Raw) -> None:
    built = build(AttentionConfig, {"kind": kind, **raw})
    assert {key: getattr(built, key) for key in raw} == raw


@pytest.mark.parametrize(
    ("kind", "near"), [("projektion", "projection"), ("Standard", "standard"), (False, ""), (3, ""), ([], "")], ids=str
)
def test_a_kind_that_is_none_is_refused_with_those_that_there_are(kind: Any, near: str) -> None:
    message = problem(AttentionConfig, {"kind": kind}, "model.attention")
    assert message.startswith("model.attention.kind: ")
    assert "standard" in message
    assert "projection" in message
    assert not near or f"mean {near}" in message


# ---------------------------------------------------------------------------------------------------------- shipped


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_configuration_builds_and_is_found_by_name(path: Path) -> None:
    assert find(path.stem).resolve() == path.resolve()
    assert isinstance(build(Config, read_yaml(find(path.stem))), Config)


def test_the_shipped_pair_of_the_paper_differs_in_the_attention_alone() -> None:
    standard, projection = (read_yaml(find(f"sanger2026-{kind}")) for kind in ("standard", "projection"))
    assert standard["model"].pop("attention")["kind"] == "standard"
    assert projection["model"].pop("attention")["kind"] == "projection"
    assert standard == projection, "equal conditions for both"


# ------------------------------------------------------------------------------------------------------ description


def leaves(section: Any, path: str = "", kind: str = "") -> Iterator[tuple[str, "dataclasses.Field[Any]"]]:
    """Dotted path and field of every setting, marked with its kind where it has one; the kind itself once."""
    if hasattr(section, "kinds") and not kind:
        yield f"{path}kind", next(field for field in dataclasses.fields(section) if field.name == "kind")
        for name, variant in section.kinds().items():
            yield from leaves(variant, path, name)
        return
    hints = typing.get_type_hints(section)
    for field in dataclasses.fields(section):
        if dataclasses.is_dataclass(hints[field.name]):
            yield from leaves(hints[field.name], f"{path}{field.name}.", kind)
        elif not (kind and field.name == "kind"):
            yield f"{path}{field.name}" + (f" ({kind})" if kind else ""), field


def test_the_description_lists_every_setting_once() -> None:
    described = [row[0] for row in describe(Config)]
    assert sorted(described) == sorted(path for path, _ in leaves(Config))


def test_every_setting_is_described_with_type_default_and_documentation() -> None:
    fields = dict(leaves(Config))
    for path, allowed, default, documentation in describe(Config):
        field = fields[path]
        assert allowed
        assert documentation.strip(), path
        assert len(documentation.splitlines()) == 1
        if not path.endswith("kind"):
            parsed = yaml.safe_load(default)
            assert (parsed, type(parsed)) == (field.default, type(field.default)), path


def test_what_belongs_to_one_kind_is_marked_with_it() -> None:
    described = {row[0] for row in describe(Config)}
    assert {f"model.attention.values ({kind})" for kind in ("standard", "projection")} <= described
    assert "model.attention.distance (projection)" in described
    assert "model.attention.distance (standard)" not in described
    assert "model.width" in described


# ---------------------------------------------------------------------------------------------- what settings affect

LIMITS = {f"training.{name}" for name in ("epochs", "updates", "minutes", "patience", "tensorboard")}
ORDER = {f"training.{name}" for name in ("seed", "batch_tokens", "batch_sentences", "by_length", "accumulation")}
DROPOUTS = {"model.dropout", "model.attention_dropout", "model.output_dropout"}
UNTIMED = LIMITS | {"corpus.folder", "model.embeddings.init", "model.embeddings.window"} | {
    f"training.{name}"
    for name in (
        "learning_rate", "schedule", "warmup_updates", "weight_decay", "beta1", "beta2", "sigma_rate", "best",
        "validation_sentences", "validation_beam", "report_updates", "save_minutes", "evaluate_test", "export",
        "average_checkpoints",
    )
}  # fmt: skip


def below(section: str) -> set[str]:
    """Every setting of a section."""
    return {row[0].partition(" ")[0] for row in describe(Config) if row[0].startswith(f"{section}.")}


def test_what_settings_affect() -> None:
    assert affecting("limit") == LIMITS
    assert affecting("order") == ORDER
    assert affecting("start", "outcome", "limit") == UNTIMED | below("decoding")
    fixed = below("corpus") | below("model") - DROPOUTS | {"training.optimizer"}
    assert affecting("weights", "start") == fixed


def test_a_setting_that_says_nothing_affects_what_its_section_does_and_that_the_weights() -> None:
    """So a setting whose author forgot the question is not changed unasked in a resumed run."""

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Careless:
        forgotten: int = config.setting(1, "new")
        considered: int = config.setting(1, "new", affects="limit")

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Whole:
        fixed: Careless = config.setting(Careless, "a section that says nothing")
        free: Careless = config.setting(Careless, "one that does", affects="outcome")

    affects = {"fixed.forgotten": "weights", "free.forgotten": "outcome"}
    assert config.affected(Whole) == affects | {"fixed.considered": "limit", "free.considered": "limit"}
    assert {path for path, word in config.affected(Config).items() if word == "update"} == DROPOUTS | {
        f"training.{name}"
        for name in ("clip_norm", "average", "label_smoothing", "r_drop", "padding_in_loss", "subword_dropout",
                     "precision", "compile")
    }  # fmt: skip


# -------------------------------------------------------------------------------------------------- removed settings

INDUCTOR = "training.compile: 'inductor' was removed in 0.2.0; set it to static or none, which make the same updates"


def test_a_run_with_a_removed_value_is_one_line_with_the_file_to_mend(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.keep_config(dump(Config()) | {"training": dump(Config())["training"] | {"compile": "inductor"}})
    assert problem(Config, run.raw_config) == INDUCTOR
    for call in (lambda: of_run(run), lambda: resumed(run, sets=["training.compile=static"], flags=[])):
        with pytest.raises(RunError) as caught:
            call()
        assert str(caught.value) == f"run {tmp_path}: config.yaml: {INDUCTOR}"
    run.keep_config(run.raw_config | {"training": run.raw_config["training"] | {"compile": "static"}})
    assert resumed(run, sets=["training.epochs=3"], flags=[]).training.compile == "static"
