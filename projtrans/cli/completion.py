"""What the shell may complete: configurations, settings, kinds of attention, runs and prepared folders.

Settings are read from the generated page docs/configuration.md, which is installed with the package: the classes that
declare them stand beside torch, which takes longer to import than anybody waits for a completion. Knows no command.
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

Complete = Callable[[str], list[str]]
"""From what has been typed of a word to the words that it may become; none: the shell completes file names."""

ROW = re.compile(r"\| `(?P<setting>[\w.]+)(?: \(\w+\))?` \| (?P<values>.+?) \| `(?P<default>.*?)` \|")
"""A row of the page: | `section.key (kind)` | values | `default` | meaning |."""


def configurations(typed: str) -> list[str]:
    """Names of the shipped configurations."""
    from projtrans.config import shipped_names

    return _matching(shipped_names(), typed)


def settings(typed: str) -> list[str]:
    """`section.key=value`, with every value of a setting that has few, and the default of any other."""
    return _matching((f"{name}={value}" for name, values in _settings() for value in values), typed)


def choices(setting: str) -> Complete:
    """The values of a setting that has few."""

    def complete(typed: str) -> list[str]:
        return _matching((value for name, values in _settings() for value in values if name == setting), typed)

    return complete


def runs(typed: str) -> list[str]:
    """Run folders in runs/."""
    return _matching((str(path.parent) for path in sorted(Path("runs").glob("*/config.yaml"))), typed)


def data_folders(typed: str) -> list[str]:
    """Prepared folders in data/."""
    return _matching((str(path.parent) for path in sorted(Path("data").glob("*/manifest.json"))), typed)


def _matching(words: "Iterator[str] | list[str]", typed: str) -> list[str]:
    return list(dict.fromkeys(word for word in words if word.startswith(typed)))


def _settings() -> Iterator[tuple[str, list[str]]]:
    for row in ROW.finditer(_page().read_text(encoding="utf-8")):
        values = re.split(" or |, ", row["values"].removeprefix("one of "))
        named = all(re.fullmatch(r"[\w-]+", value) for value in values) and "text" not in values
        yield row["setting"], values if named else [row["default"].strip("'")]


def _page() -> Path:
    """configuration.md inside an installed package, or in docs/ of a checkout (editable installation)."""
    package = Path(__file__).parent.parent
    inside = package / "configuration.md"
    return inside if inside.is_file() else package.parent / "docs" / inside.name
