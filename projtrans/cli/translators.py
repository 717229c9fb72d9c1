"""The translator that a command's flags ask for."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeVar

from projtrans.errors import ConfigError

if TYPE_CHECKING:
    from projtrans.inference.torch_translator import Translator
    from projtrans.inference.translator import SentenceTranslator
    from projtrans.runs.run_folder import Run

    AnyTranslator = TypeVar("AnyTranslator", bound=SentenceTranslator)


SearchFlags = Mapping[str, float | None]
"""Flags by the names of the settings that they change; None if not given."""


def run_translator(run: "Run", device: str, threads: int | None, flags: SearchFlags) -> "Translator":
    """The torch translator of a run, with the search settings of the flags."""
    from projtrans.inference.torch_translator import Translator
    from projtrans.model import devices

    devices.use_threads(threads)
    return searching(Translator.of_run(run, devices.choose(device)), flags)


def searching(translator: "AnyTranslator", flags: SearchFlags) -> "AnyTranslator":
    """The translator with the search settings of the flags; raises ConfigError with the name of a flag."""
    given = {name: value for name, value in flags.items() if value is not None}
    try:
        changed = translator.with_decoding(**given)
    except ConfigError as error:
        name, _, problem = str(error).partition(":")
        raise ConfigError(f"{_flag(name) if name in given else f'decoding.{name}'}:{problem}") from error
    sampling = changed.decoding.sample
    for name in ("beam_size", "length_penalty") if sampling else ("temperature", "top_k", "seed"):
        if name in given:
            remedy = (
                "samples are drawn, not searched for; leave it out"
                if sampling
                else "applies to samples only; add --sample"
            )
            raise ConfigError(f"{_flag(name)} {given[name]}: {remedy}")
    return changed


def _flag(setting: str) -> str:
    return f"--{setting.replace('_', '-')}"
