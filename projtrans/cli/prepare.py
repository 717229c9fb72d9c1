"""The command `prepare`."""

from pathlib import Path

from projtrans.cli import options as o
from projtrans.errors import ConfigError


def prepare(
    corpus: o.Corpus = None,
    output: o.OutputFolder = None,
    train: o.TrainSides = None,
    valid: o.ValidSides = None,
    test: o.TestSides = None,
    archive: o.Archive = None,
    config: o.Config = None,
    direction: o.Direction = None,
    split: o.Split = None,
    seed: o.SplitSeed = None,
    tokenizer: o.TokenizerKind = None,
    vocab_size: o.VocabSize = None,
    force: o.Force = False,
    threads: o.PrepareThreads = None,
    quiet: o.Quiet = False,
) -> None:
    """Prepare training data from a corpus.

    The corpus is read strictly and split, and its tokenizer is trained. Settings come from --config, or from the
    configuration shipped for the corpus.

    Example: projtrans prepare tatoeba-spa-eng
    """
    from projtrans.cli import displays
    from projtrans.data import prepare as preparing
    from projtrans.data.data_folder import default_folder

    flags = {"name": corpus, "direction": direction, "split": split, "seed": seed}
    flags |= {"tokenizer": tokenizer, "vocab_size": vocab_size}
    files = _ready_made({"train": train, "valid": valid, "test": test}, corpus)
    wanted = preparing.wanted(config, {key: value for key, value in flags.items() if value is not None}, files)
    folder = output or default_folder(wanted)
    with displays.PrepareDisplay(quiet) as display:
        manifest = preparing.prepare(wanted, folder, archive=archive, files=files, force=force, report=display)
    displays.prepared(folder, manifest, quiet)


def _ready_made(splits: dict[str, tuple[Path, Path] | None], corpus: str | None) -> dict[str, tuple[Path, Path]] | None:
    given = {name: files for name, files in splits.items() if files is not None}
    missing = [f"--{name}" for name in splits if name not in given]
    if given and missing:
        raise ConfigError(f"prepare: ready-made splits need --train, --valid and --test; {', '.join(missing)} missing")
    if given and corpus is not None:
        raise ConfigError(f"prepare: {corpus} and ready-made splits exclude each other; leave one of them out")
    return given or None
