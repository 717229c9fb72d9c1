"""What a `train` command asks for: which configuration, which run folder, which data. Trains nothing."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from projtrans import config
from projtrans.data import corpora
from projtrans.data.corpus import CorpusConfig
from projtrans.data.data_folder import MANIFEST, default_folder, differences, load_manifest, load_tokenizer
from projtrans.data.events import Report, Stage
from projtrans.data.prepare import prepare
from projtrans.errors import ConfigError, DataError
from projtrans.runs.run_folder import Run, free_folder, open_run
from projtrans.runs.settings import Config, resolve, resumed


@dataclass(frozen=True)
class RunSetup:
    """A run that is ready to start or to resume."""

    settings: Config
    run: Run
    data: Path

    def to_json(self) -> str:
        """The setup as text, for other processes."""
        parts = {"settings": config.dump(self.settings), "run": str(self.run.folder), "data": str(self.data)}
        return json.dumps(parts)

    @classmethod
    def from_json(cls, text: str) -> "RunSetup":
        """The setup that `to_json` wrote."""
        parts = json.loads(text)
        return cls(config.build(Config, parts["settings"]), Run(Path(parts["run"])), Path(parts["data"]))


@dataclass(frozen=True, kw_only=True)
class Flags:
    """What the command line sets on top of the configuration file."""

    attention: str | None
    sets: Sequence[str]
    overrides: Sequence[tuple[str, Any]]  # dotted path and value


def begin(config_name: str | None, flags: Flags, *, run: Path | None, data: Path | None, report: Report) -> RunSetup:
    """A new run; missing data are prepared.

    With `data` and without a configuration, the corpus settings are those that the data were prepared with. Raises
    ConfigError where the run folder holds a run, or the data are not those that the configuration asks for.
    """
    manifest = None if data is None else load_manifest(data)
    name = config_name or corpora.shipped_configuration(manifest.corpus if manifest else corpora.BUNDLED)
    raw = config.read_yaml(config.find(name)) if name else {}
    if manifest and config_name is None:
        raw["corpus"] = config.dump(manifest.config)
    settings = resolve(raw, attention=flags.attention, sets=flags.sets, flags=flags.overrides)
    stem = Path(name).stem if name else settings.corpus.folder_name
    kind = settings.model.attention.kind
    run_folder = run or free_folder(stem if stem.endswith(f"-{kind}") else f"{stem}-{kind}")
    Run(run_folder).refuse_existing()
    folder = data or default_folder(settings.corpus)
    if folder != default_folder(settings.corpus):  # the run records where its data are
        settings = replace(settings, corpus=replace(settings.corpus, folder=str(folder)))
    if data is None and not (folder / MANIFEST).exists():
        report(Stage(text=f"preparing {settings.corpus.name} in {folder}"))
        prepare(settings.corpus, folder, report=report)
    _check(settings.corpus, folder, config_name)
    return RunSetup(settings, Run(run_folder), folder)


def resume(
    config_name: str | None, flags: Flags, *, run: Path | None, data: Path | None, allow_changes: bool = False
) -> RunSetup:
    """An existing run with its own configuration; allow_changes: flags may change more of it than the limits."""
    if config_name is not None:
        raise ConfigError(f"--config {config_name}: a resumed run keeps its configuration; leave --config out")
    opened = open_run(run)
    kind = [] if flags.attention is None else [("model.attention.kind", flags.attention)]
    settings = resumed(opened, sets=flags.sets, flags=[*flags.overrides, *kind], allow_changes=allow_changes)
    return RunSetup(settings, opened, data or default_folder(settings.corpus))


def _check(corpus: CorpusConfig, folder: Path, config_name: str | None) -> None:
    different = differences(load_manifest(folder), corpus)
    if different:
        again = f"projtrans prepare --config {config_name}" if config_name else f"projtrans prepare {corpus.name}"
        raise ConfigError(f"{folder}: {'; '.join(different)}; run '{again} -o DIR' and train with --data DIR")


def run_data(run: Run, folders: Sequence[Path]) -> Path:
    """The data folder of a run: the one of `folders` that has its tokenizer; without folders the one it was trained on.

    Raises DataError where no folder has that tokenizer.
    """
    tried = list(folders) or [default_folder(run.section("corpus", CorpusConfig))]
    checksum = run.tokenizer().checksum
    for folder in tried:
        if load_tokenizer(folder).checksum == checksum:
            return folder
    names = ", ".join(map(str, tried))
    raise DataError(f"{names}: not the data of {run.folder} (another tokenizer); name them with --data DIR")
