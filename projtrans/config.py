"""The strict way from YAML to frozen dataclasses and back.

This file knows the rules (types, ranges, dotted paths, nearest keys), not the settings: each section is a dataclass
declared in the file that uses it. A field made by `setting` carries its default, range and documentation, what the
setting affects and which values were removed; nothing else in the project repeats any of these.
"""

import dataclasses
import difflib
import math
import operator
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml

from projtrans.errors import ConfigError

Raw = dict[str, Any]
Section = TypeVar("Section")


Affects = Literal["weights", "start", "update", "order", "outcome", "limit"]
"""What a setting affects; the first is the default, since it permits least. A resumed run may change the last freely
and the first two never. Settings of `weights`, `update` and `order` affect the time of an update.

    weights   which weights there are and what they mean
    start     the data and weights that training starts from
    update    what is computed in an update
    order     which sentence pairs are in which batch, and when
    outcome   what is learned, kept, reported or found by the search, at the same cost of an update
    limit     when training stops and what it shows
"""


def setting(
    default: Any,
    doc: str,
    *,
    minimum: float | None = None,
    above: float | None = None,
    maximum: float | None = None,
    below: float | None = None,
    affects: Affects | None = None,
    removed: Mapping[str, str] = types.MappingProxyType({}),
) -> Any:
    """A dataclass field with its documentation and its range (`minimum`, `maximum` inclusive; `above`, `below` not).

    affects: None: what the section does, by the field that holds it. removed: values that old configurations may hold,
    each with the version that removed it and a remedy.
    """
    bounds = {"≥": minimum, ">": above, "≤": maximum, "<": below}
    given = {sign: bound for sign, bound in bounds.items() if bound is not None}
    metadata = {"doc": doc, "bounds": given, "affects": affects, "removed": removed}
    if isinstance(default, type):
        return dataclasses.field(default_factory=default, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


# ---------------------------------------------------------------------------------------------------------- reading


def shipped_names() -> list[str]:
    """The configurations installed with the package, by name."""
    return sorted(path.stem for path in _shipped_folder().glob("*.yaml"))


def find(name_or_path: str) -> Path:
    """The file of a shipped configuration, or the path itself if it has a `/` or an extension.

    Raises ConfigError for a name that is not shipped and for a file that does not exist.
    """
    path = Path(name_or_path)
    if "/" in name_or_path or path.suffix:
        if not path.is_file():
            raise ConfigError(f"configuration {path}: {'a directory, not a file' if path.is_dir() else 'no such file'}")
        return path
    if name_or_path not in shipped_names():
        known = ", ".join(shipped_names())
        raise ConfigError(
            f"configuration '{_one_line(name_or_path)}': not shipped (shipped: {known}; a file needs a / or .yaml)"
        )
    return _shipped_folder() / f"{name_or_path}.yaml"


def read_yaml(path: Path) -> Raw:
    """The mapping in a YAML file; raises ConfigError with the line of a syntax error."""
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except OSError as error:
        raise ConfigError(f"configuration {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"configuration {path}: not UTF-8 (byte {error.start})") from error
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"configuration {path}: {_yaml_problem(error)}") from error
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        raise ConfigError(f"configuration {path}: expected sections such as 'model:', found {_named(raw)}")
    return raw


def assign(raw: Raw, assignment: str) -> None:
    """Put one `SECTION.KEY=VALUE` into `raw`, with the value read as YAML."""
    dotted, equals, text = assignment.partition("=")
    keys = dotted.strip().split(".")
    if not equals or not all(keys):
        raise ConfigError(f"--set {_one_line(assignment)}: expected SECTION.KEY=VALUE, as in training.epochs=5")
    try:
        value = yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"--set {_one_line(assignment)}: {_yaml_problem(error)}") from error
    put(raw, keys, value)


def put(raw: Raw, keys: Sequence[str], value: Any) -> None:
    """Put `value` at the path `keys`, creating the mappings on the way."""
    for key in keys[:-1]:
        below = raw.get(key)
        if not isinstance(below, dict):
            below = raw[key] = {}
        raw = below
    raw[keys[-1]] = value


class _Loader(yaml.SafeLoader):
    """YAML in which a duplicate key is an error instead of a silent choice."""

    def construct_mapping(self, node: yaml.Node, deep: bool = False) -> dict[Any, Any]:
        if not isinstance(node, yaml.MappingNode):
            return super().construct_mapping(node, deep)  # type: ignore[arg-type]  # raises
        merge = "tag:yaml.org,2002:merge"
        keys = [self.construct_object(key, deep=True) for key, _ in node.value if key.tag != merge]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.MarkedYAMLError(problem=f"'{key}' is given twice", problem_mark=node.start_mark)
        return super().construct_mapping(node, deep)


def _shipped_folder() -> Path:
    """configs/ inside an installed package, or beside it in a checkout (editable install)."""
    package = Path(__file__).parent
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def _yaml_problem(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or (str(error) if isinstance(error, ValueError) else "not YAML")
    return f"line {mark.line + 1}: {problem}" if mark else str(problem)


# --------------------------------------------------------------------------------------------------------- building


def build(section: type[Section], raw: Any, path: str = "") -> Section:
    """A section from its YAML mapping, with every value checked.

    A dataclass with a class method `kinds() -> {name: subclass}` is a union discriminated by its key `kind`.
    Raises ConfigError with the dotted path, the nearest valid key and what is allowed.
    """
    if raw is None:
        raw = {}
    if not isinstance(raw, Mapping):
        keys = ", ".join(field.name for field in dataclasses.fields(section))  # type: ignore[arg-type]
        raise ConfigError(f"{path}: expected settings ({keys}), found {_named(raw)}")
    section = _kind(section, raw, path)
    _refuse_unknown(section, raw, path)
    hints = typing.get_type_hints(section)
    values = {
        field.name: _convert(raw[field.name], hints[field.name], _join(path, field.name), field.metadata)
        for field in dataclasses.fields(section)  # type: ignore[arg-type]
        if field.name in raw
    }
    try:
        return section(**values)
    except ConfigError as error:  # from __post_init__, which does not know the path of its section
        raise ConfigError(_join(path, str(error))) from error


def dump(section: Any) -> Raw:
    """The section as plain YAML values: `build(type(section), dump(section)) == section`."""
    return dataclasses.asdict(section)


def to_yaml(raw: Raw) -> str:
    """YAML text in the order of the fields; ASCII, since PyYAML writes U+0085 raw but does not read it."""
    return yaml.safe_dump(raw, sort_keys=False)


def _kind(section: Any, raw: Mapping[str, Any], path: str) -> Any:
    if not hasattr(section, "kinds"):
        return section
    kinds = section.kinds()
    kind = raw.get("kind", section.kind)
    if not isinstance(kind, str) or kind not in kinds:
        raise ConfigError(f"{_join(path, 'kind')}: {_shown(kind)} is none of {', '.join(kinds)}{_nearest(kind, kinds)}")
    return kinds[kind]


def _refuse_unknown(section: Any, raw: Mapping[Any, Any], path: str) -> None:
    known = [field.name for field in dataclasses.fields(section)]
    for key in raw:
        if key not in known:
            of_kind = f" of kind {section.kind}" if hasattr(section, "kinds") else ""
            close = _nearest(key, known) or f" (settings: {', '.join(known)})"
            raise ConfigError(f"{_join(path, _one_line(str(key)))}: no such setting{of_kind}{close}")


def _convert(value: Any, hint: Any, path: str, metadata: Mapping[str, Any]) -> Any:
    if dataclasses.is_dataclass(hint):
        return build(typing.cast(type[Any], hint), value, path)
    if isinstance(value, str) and (since := metadata.get("removed", {}).get(value)):
        raise ConfigError(f"{path}: {_shown(value)} was removed in {since}")
    for member in _members(hint):
        matched, converted = _match(value, member)
        if matched:
            _check_bounds(converted, path, metadata)
            return converted
    raise ConfigError(f"{path}: expected {_expected(hint)}, found {_named(value)}")


def _members(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)


def _match(value: Any, hint: Any) -> tuple[bool, Any]:
    """Whether `value` is of the type, and the value as that type (a float from an int, or from PyYAML's '3e-4')."""
    if typing.get_origin(hint) is Literal:
        return isinstance(value, str) and value in typing.get_args(hint), value
    if hint is type(None):
        return value is None, None
    if hint is float:
        number = _number(value)
        return number is not None, number
    # type(), not isinstance: isinstance takes True for an int; of a dict[str, str] only the dict is checked
    return type(value) is (typing.get_origin(hint) or hint), value


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _check_bounds(value: Any, path: str, metadata: Mapping[str, Any]) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return
    holds = {"≥": operator.ge, ">": operator.gt, "≤": operator.le, "<": operator.lt}
    bounds = metadata.get("bounds", {})
    if not all(holds[sign](value, bound) for sign, bound in bounds.items()):
        allowed = " and ".join(f"{sign} {bound:g}" for sign, bound in bounds.items())
        raise ConfigError(f"{path}: {value} is out of range, it must be {allowed}")


# ------------------------------------------------------------------------------------------------------ description


def describe(section: Any, path: str = "") -> Iterator[tuple[str, str, str, str]]:
    """Every setting below a section: dotted path (with its kind, if any), type and range, default, documentation."""
    for dotted, kind, hint, field, _ in _settings(section, path):
        bounds = " and ".join(f"{sign} {bound:g}" for sign, bound in field.metadata.get("bounds", {}).items())
        shown = f"{dotted} ({kind})" if kind else dotted
        yield shown, f"{_expected(hint)} {bounds}".strip(), _shown(field.default), field.metadata.get("doc", "")


def affected(section: Any) -> dict[str, Affects]:
    """What every setting below a section affects, by dotted path; settings of all kinds are included."""
    return {path: affects for path, *_, affects in _settings(section)}


def _settings(
    section: Any, path: str = "", kind: str = "", affects: Affects = "weights"
) -> Iterator[tuple[str, str, Any, "dataclasses.Field[Any]", Affects]]:
    """Every setting below a section: dotted path, the kind that it belongs to (or ""), type, field, what it affects."""
    hints = typing.get_type_hints(section)
    fields = dataclasses.fields(section)
    if hasattr(section, "kinds") and not kind:
        field = next(field for field in fields if field.name == "kind")
        yield _join(path, "kind"), "", Literal[tuple(section.kinds())], field, affects
        for name, variant in section.kinds().items():
            yield from _settings(variant, path, name, affects)
        return
    for field in fields:
        hint, dotted, own = hints[field.name], _join(path, field.name), field.metadata.get("affects") or affects
        if dataclasses.is_dataclass(hint):
            yield from _settings(hint, dotted, kind, own)
        elif not (kind and field.name == "kind"):
            yield dotted, kind, hint, field, own


def _expected(hint: Any) -> str:
    words = {int: "a whole number", float: "a number", str: "text", bool: "true or false", type(None): "null"}
    parts = []
    for member in _members(hint):
        if typing.get_origin(member) is Literal:
            parts += [str(choice) for choice in typing.get_args(member)]
        else:
            parts.append(words.get(member, str(member)))
    return " or ".join(parts) if len(parts) < 3 else f"one of {', '.join(parts)}"


def _named(value: Any) -> str:
    if isinstance(value, bool):
        return f"the boolean {str(value).lower()} (YAML reads yes, no, on and off so; quotes make it text)"
    return {dict: "a mapping", list: "a list", type(None): "nothing (null)"}.get(type(value), _shown(value))


def _shown(value: Any) -> str:
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else repr(value)


def _nearest(key: Any, known: Sequence[str] | Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(str(key), list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else ""


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _one_line(text: str) -> str:
    return text if text.isprintable() else repr(text)[1:-1]
