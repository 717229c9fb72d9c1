"""The strict loader, held against the settings that the project really has and against YAML's own traps.

The oracle is what YAML itself takes a text for.
"""

import dataclasses
import math
import re
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from projtrans import config
from projtrans.config import assign, build, find, put, read_yaml, setting, shipped_names
from projtrans.data.corpus import CorpusConfig
from projtrans.model.attention import ProjectionConfig, SigmaConfig
from projtrans.model.transformer import ModelConfig
from projtrans.runs.settings import Config, TrainingConfig
from projtrans.search.decoding import DecodingConfig
from tests.refusals import problem, refusal

CONFIGS = Path(__file__).parent.parent / "configs"


@given(st.floats(0, exclude_min=True, allow_nan=False, allow_infinity=False))
def test_a_float_survives_every_way_of_writing_it(rate: float) -> None:
    for written in (repr(rate), f"{rate!r}".replace(".0e", "e"), yaml.safe_dump(rate).split("\n")[0]):
        raw: config.Raw = {}
        assign(raw, f"learning_rate={written}")
        assert build(TrainingConfig, raw).learning_rate == rate


def test_defaults_hold_where_nothing_is_said() -> None:
    assert build(Config, {}) == build(Config, None) == build(Config, {"model": None, "training": {}}) == Config()


def test_sections_cannot_be_changed_after_they_are_built() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        build(Config, {}).model.width = 7  # type: ignore[misc]


# --------------------------------------------------------------------------------------------------------- mistakes

UNKNOWN = [
    ("top level", {"modle": {}}, "modle", "model"),
    ("one down", {"model": {"widht": 8}}, "model.widht", "width"),
    ("two down", {"model": {"layers": {"encoders": 1}}}, "model.layers.encoders", "encoder"),
    ("inside a kind", {"model": {"attention": {"normalise": "head"}}}, "model.attention.normalise", "normalize"),
    ("three down", {"model": {"attention": {"sigma": {"corss": 1}}}}, "model.attention.sigma.corss", "cross"),
    ("hyphen for underscore", {"training": {"batch-tokens": 9}}, "training.batch-tokens", "batch_tokens"),
    ("capital", {"training": {"Seed": 9}}, "training.Seed", "seed"),
    ("a number as key", {"decoding": {5: 1}}, "decoding.5", "beam_size"),
    ("nothing near: all are listed", {"decoding": {"zzzzzz": 1}}, "decoding.zzzzzz", "length_penalty"),
]


@pytest.mark.parametrize(("reason", "raw", "path", "near"), UNKNOWN, ids=[row[0] for row in UNKNOWN])
def test_an_unknown_key_is_named_with_its_path_and_the_nearest_key(
    reason: str, raw: config.Raw, path: str, near: str
) -> None:
    message = problem(Config, raw)
    assert message.startswith(f"{path}: "), reason
    assert re.search(rf"\b{near}\b", message.removeprefix(path)), reason


@settings(max_examples=100)
@given(st.text(max_size=10) | st.integers() | st.booleans() | st.none() | st.floats(allow_nan=False))
@example("line\nfeed")
@example("\u2028")
@example("\x85\r")
def test_any_unknown_key_is_refused_in_one_line(key: Any) -> None:
    if key not in {field.name for field in dataclasses.fields(DecodingConfig)}:
        problem(DecodingConfig, {key: 1}, "decoding")


WRONG = [
    ("text for a whole number", {"model": {"width": "wide"}}, "model.width", "a whole number", "'wide'"),
    ("a whole number in quotes is text", {"model": {"width": "256"}}, "model.width", "a whole number", "'256'"),
    ("a fraction for a whole number", {"model": {"heads": 4.5}}, "model.heads", "a whole number", "4.5"),
    ("even a whole float is none", {"model": {"heads": 4.0}}, "model.heads", "a whole number", "4.0"),
    ("True is no whole number", {"model": {"heads": True}}, "model.heads", "a whole number", "boolean true"),
    ("False is no number", {"model": {"dropout": False}}, "model.dropout", "a number", "boolean false"),
    ("yes or no is no text", {"corpus": {"name": False}}, "corpus.name", "text", "boolean false"),
    ("no is no choice", {"model": {"norm": False}}, "model.norm", "pre or post", "boolean false"),
    ("a number is no text", {"corpus": {"name": 3}}, "corpus.name", "text", "3"),
    ("1 is not true", {"model": {"mask_padding": 1}}, "model.mask_padding", "true or false", "1"),
    ("text is not true", {"model": {"mask_padding": "true"}}, "model.mask_padding", "true or false", "'true'"),
    ("null where there must be a value", {"model": {"width": None}}, "model.width", "a whole number", "null"),
    ("a list", {"training": {"epochs": [1]}}, "training.epochs", "a whole number", "a list"),
    ("a mapping", {"training": {"epochs": {"a": 1}}}, "training.epochs", "a whole number", "a mapping"),
    ("a value for a section", {"model": 3}, "model", "width", "3"),
    ("a value for a section below", {"model": {"layers": 3}}, "model.layers", "encoder, decoder", "3"),
    ("a list for a section", {"model": [1]}, "model", "width", "a list"),
    ("a choice that is none", {"model": {"norm": "mid"}}, "model.norm", "pre or post", "'mid'"),
    ("not a number", {"model": {"dropout": math.nan}}, "model.dropout", "a number", "nan"),
    ("infinity", {"training": {"learning_rate": math.inf}}, "training.learning_rate", "a number", "inf"),
    ("infinity as text", {"training": {"learning_rate": "inf"}}, "training.learning_rate", "a number", "'inf'"),
    ("nan as text", {"training": {"learning_rate": "nan"}}, "training.learning_rate", "a number", "'nan'"),
    ("beyond a float", {"training": {"learning_rate": 10**400}}, "training.learning_rate", "a number", "000"),
    ("neither number nor auto", {"model": {"attention": {"sigma": {"self": "Auto"}}}}, ".sigma.self", "auto", "'Auto'"),
    ("a boolean for σ", {"model": {"attention": {"sigma": {"self": True}}}}, ".sigma.self", "auto", "boolean true"),
    ("null for σ of both", {"model": {"attention": {"sigma": {"self": None}}}}, ".sigma.self", "auto", "null"),
]


@pytest.mark.parametrize(("reason", "raw", "path", "expected", "found"), WRONG, ids=[row[0] for row in WRONG])
def test_a_wrong_type_is_named_with_what_is_expected_and_what_was_found(
    reason: str, raw: config.Raw, path: str, expected: str, found: str
) -> None:
    message = problem(Config, raw)
    where, _, what = message.partition(": ")
    assert where == path or (path.startswith(".") and where.endswith(path)), reason
    assert expected in what, reason
    assert found in what, reason


RANGES = [
    ("inclusive minimum", {"model": {"width": 0}}, "model.width", "≥ 1"),
    ("negative", {"training": {"warmup_updates": -1}}, "training.warmup_updates", "≥ 0"),
    ("exclusive minimum", {"training": {"learning_rate": 0}}, "training.learning_rate", "> 0"),
    ("exclusive minimum of a whole number", {"corpus": {"vocab_size": 300}}, "corpus.vocab_size", "> 300"),
    ("exclusive maximum", {"model": {"dropout": 1}}, "model.dropout", "≥ 0 and < 1"),
    ("both ends are named", {"model": {"dropout": -0.1}}, "model.dropout", "≥ 0 and < 1"),
    ("σ is not 0", {"model": {"attention": {"sigma": {"cross": 0.0}}}}, "model.attention.sigma.cross", "≥ 1e-06"),
    ("in a union too", {"training": {"clip_norm": 0}}, "training.clip_norm", "> 0"),
    ("a window of nothing", {"model": {"embeddings": {"window": 0}}}, "model.embeddings.window", "≥ 1"),
    ("as text", {"training": {"learning_rate": "-1e-3"}}, "training.learning_rate", "> 0"),
]


@pytest.mark.parametrize(("reason", "raw", "path", "allowed"), RANGES, ids=[row[0] for row in RANGES])
def test_a_value_out_of_range_is_named_with_the_range(reason: str, raw: config.Raw, path: str, allowed: str) -> None:
    message = problem(Config, raw)
    assert message.startswith(f"{path}: "), reason
    assert allowed in message, reason


@dataclasses.dataclass(frozen=True, kw_only=True)
class Renewed:
    """A section with a value that is gone."""

    speed: Literal["slow", "fast"] | None = setting("slow", "how", removed={"warp": "9.8; set it to fast"})


def test_a_removed_value_is_named_with_its_version_and_a_remedy() -> None:
    assert problem(Renewed, {"speed": "warp"}, "ship") == "ship.speed: 'warp' was removed in 9.8; set it to fast"
    assert "warp" not in problem(Renewed, {"speed": "wrap"}, "ship").partition("expected")[2].partition("found")[0]
    assert build(Renewed, {"speed": "fast"}) == Renewed(speed="fast")


def test_the_ends_of_a_range_are_inside_where_they_are_inclusive() -> None:
    assert build(ModelConfig, {"dropout": 0}).dropout == 0.0
    assert build(ModelConfig, {"width": 2, "heads": 1}).width == 2
    assert build(CorpusConfig, {"vocab_size": 301}).vocab_size == 301
    assert build(ModelConfig, {"dropout": math.nextafter(1, 0)}).dropout < 1


# ------------------------------------------------------------------------------------------------------- YAML's traps

TRAPS = [
    ("3e-4 is text to PyYAML", "training: {learning_rate: 3e-4}", ["training", "learning_rate"], 3e-4),
    ("1E5 too, and σ takes text as well", "model: {attention: {sigma: {self: 1E5}}}", ["sigma", "self"], 1e5),
    ("a whole number for a number", "training: {learning_rate: 1}", ["training", "learning_rate"], 1.0),
    ("an empty section is one of defaults", "model:\ntraining: {epochs: 3}", ["training", "epochs"], 3),
    ("null is a value where it is allowed", "training: {clip_norm: ~}", ["training", "clip_norm"], None),
    ("quoted no is text", "corpus: {name: 'no'}", ["corpus", "name"], "no"),
    ("an anchor is used twice", "model: {layers: {encoder: &n 7, decoder: *n}}", ["layers", "decoder"], 7),
]


@pytest.mark.parametrize(("reason", "text", "keys", "expected"), TRAPS, ids=[row[0] for row in TRAPS])
def test_yaml_means_what_it_says(tmp_path: Path, reason: str, text: str, keys: list[str], expected: Any) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(text, encoding="utf-8")
    whole: Any = build(Config, read_yaml(path))
    if keys[0] in ("layers", "sigma"):
        whole = whole.model if keys[0] == "layers" else whole.model.attention
    for key in keys:
        whole = getattr(whole, key)
    assert (whole, type(whole)) == (expected, type(expected)), reason


BROKEN = [
    ("duplicate key", b"model:\n  width: 8\n  width: 16\n", ["line", "'width'", "twice"]),
    ("duplicate section", b"model: {}\ntraining: {}\nmodel: {}\n", ["line", "'model'", "twice"]),
    ("duplicate key in braces", b"\n\nmodel: {width: 8, width: 8}\n", ["line 3", "'width'", "twice"]),
    ("syntax error with its line", b"model:\n  width: [1, 2\ntraining:\n", ["line 3"]),
    ("a tab indents", b"model:\n\twidth: 8\n", ["line 2"]),
    ("bad indentation", b"model:\n  width: 8\n heads: 2\n", ["line 3"]),
    ("an unknown alias", b"model: *nowhere\n", ["line 1", "nowhere"]),
    ("two documents", b"model: {}\n---\nmodel: {}\n", ["line 2"]),
    ("a tag that would make an object", b"model: !!python/object:os.system {}\n", ["line 1"]),
    ("a list is no configuration", b"- model\n", ["sections", "a list"]),
    ("text is no configuration", b"model", ["sections", "'model'"]),
    ("a list as key", b"? [a]\n: b\n", ["line 1"]),
    ("a control character", b"model: \x01\n", []),
    ("Latin-1", b"# \xe9\nmodel: {}\n", ["UTF-8", "2"]),
    ("a day that no calendar has", b"corpus:\n  name: 2026-13-45\n", []),
    ("a mapping that is none", b"model: !!map 3\n", []),
]


@pytest.mark.parametrize(("reason", "data", "parts"), BROKEN, ids=[row[0] for row in BROKEN])
def test_a_file_that_is_no_configuration_is_refused_where_it_is_wrong(
    tmp_path: Path, reason: str, data: bytes, parts: list[str]
) -> None:
    path = tmp_path / "broken.yaml"
    path.write_bytes(data)
    message = refusal(read_yaml, path)
    assert message.startswith(f"configuration {path}: ")
    for part in parts:
        assert part in message.removeprefix(f"configuration {path}"), reason


def test_no_is_refused_as_the_boolean_that_yaml_makes_of_it(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("corpus: {name: no}", encoding="utf-8")
    assert "boolean false" in problem(Config, read_yaml(path))


@pytest.mark.parametrize("text", ["", "# nothing but a comment\n", "---\n", "null\n"], ids=repr)
def test_an_empty_file_is_all_defaults(tmp_path: Path, text: str) -> None:
    path = tmp_path / "empty.yaml"
    path.write_text(text, encoding="utf-8")
    assert read_yaml(path) == {}


def test_merge_keys_and_anchors_work_as_yaml_has_them(tmp_path: Path) -> None:
    path = tmp_path / "merge.yaml"
    path.write_text("a: &a {x: 1, y: 2}\nb:\n  <<: *a\n  y: 3\n", encoding="utf-8")
    assert read_yaml(path) == yaml.safe_load(path.read_text(encoding="utf-8"))


# ------------------------------------------------------------------------------------------------------------- --set

ASSIGNMENTS = [
    ("one level", "a=1", {"a": 1}),
    ("mappings are made on the way", "a.b.c=1", {"a": {"b": {"c": 1}}}),
    ("only the first = divides", "a.b=x=y", {"a": {"b": "x=y"}}),
    ("a value is YAML", "a={b: [1, true, null]}", {"a": {"b": [1, True, None]}}),
    ("an empty value is null", "a.b=", {"a": {"b": None}}),
    ("quotes make text", "a='1'", {"a": "1"}),
    ("spaces around are no part", " a.b = 2 ", {"a": {"b": 2}}),
]


@pytest.mark.parametrize(("reason", "assignment", "expected"), ASSIGNMENTS, ids=[row[0] for row in ASSIGNMENTS])
def test_set_puts_a_yaml_value_at_a_path(reason: str, assignment: str, expected: config.Raw) -> None:
    raw: config.Raw = {}
    assign(raw, assignment)
    assert raw == expected, reason


NO_ASSIGNMENTS = ["", "=1", "a", "a.b", ".a=1", "a.=1", "a..b=1", "a=[1", "a={b: 1, b: 2}", "a=*x", "two\nlines"]


@pytest.mark.parametrize("assignment", NO_ASSIGNMENTS)
def test_an_assignment_that_is_none_is_refused(assignment: str) -> None:
    raw: config.Raw = {"a": 1}
    assert refusal(assign, raw, assignment).startswith("--set ")
    assert raw == {"a": 1}, "nothing is half done"


def test_set_keeps_what_stands_beside_it_and_replaces_what_stands_there() -> None:
    raw: config.Raw = {"model": {"width": 8, "heads": 2}, "training": None}
    put(raw, ["model", "width"], 16)
    put(raw, ["training", "epochs"], 1)
    put(raw, ["model", "layers", "encoder"], 4)
    assert raw == {"model": {"width": 16, "heads": 2, "layers": {"encoder": 4}}, "training": {"epochs": 1}}


def test_set_means_what_the_file_would_mean() -> None:
    raw: config.Raw = {}
    assign(raw, "training.learning_rate=3e-4")
    assign(raw, "model.attention.sigma.cross=0.5")
    assert build(Config, raw).training.learning_rate == 3e-4
    attention = build(Config, raw).model.attention
    assert isinstance(attention, ProjectionConfig)
    assert attention.sigma == SigmaConfig(cross=0.5)


# ---------------------------------------------------------------------------------------------------------- shipped


def test_the_names_are_those_of_the_files() -> None:
    names = {path.stem for path in CONFIGS.iterdir()}
    assert names
    assert set(shipped_names()) == names


def test_a_slash_or_an_ending_makes_a_file_of_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("mine.yaml", "mine.yml"):
        (tmp_path / name).write_text("model: {}", encoding="utf-8")
        assert find(name) == Path(name)
    (tmp_path / "tatoeba").write_text("model: {}", encoding="utf-8")
    assert find("./tatoeba") == Path("tatoeba"), "a file"
    assert find("tatoeba") == find("tatoeba").resolve(), "the shipped one, whatever lies here"


NOT_FOUND = [
    ("misspelt name", "tatoebaa", "phrasebook"),
    ("no such file", "nowhere.yaml", "no such file"),
    ("no such folder", "no/where", "no such file"),
    ("a folder", "./", "directory"),
    ("nothing", "", "shipped"),
    ("two lines", "tato\neba", "shipped"),
]


@pytest.mark.parametrize(("reason", "name", "part"), NOT_FOUND, ids=[row[0] for row in NOT_FOUND])
def test_a_configuration_that_is_not_there_is_refused(reason: str, name: str, part: str) -> None:
    assert part in refusal(find, name), reason


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    assert "directory" in refusal(read_yaml, tmp_path).lower()
    assert "no such file" in refusal(read_yaml, tmp_path / "none.yaml").lower()
