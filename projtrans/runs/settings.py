"""The whole configuration of a run: its four sections, flags on top of a file, and what a resumed run may change.

Three sections are declared beside their users; that of training is declared here, since its users take the whole.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from projtrans import config
from projtrans.config import Affects, Raw, setting
from projtrans.data.corpus import CorpusConfig
from projtrans.errors import ConfigError, RunError
from projtrans.model.transformer import ModelConfig
from projtrans.runs.run_folder import Run
from projtrans.search.decoding import DecodingConfig


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """How gradients change the weights."""

    optimizer: Literal["adamw", "rmsprop"] = setting(
        "adamw", "adamw (Loshchilov & Hutter 2019) or rmsprop (as in Keras)", affects="weights"
    )
    learning_rate: float = setting(1e-3, "peak learning rate", above=0, affects="outcome")
    schedule: Literal["cosine", "inverse_sqrt", "constant"] = setting(
        "cosine",
        "after the warm-up: cosine to 0 at the last update, inverse square root of the update, or constant",
        affects="outcome",
    )
    warmup_updates: int = setting(500, "updates of linear warm-up, at most 10 % of all", minimum=0, affects="outcome")
    weight_decay: float = setting(
        0.01, "decay of matrices, not of biases, norms, σ and τ (adamw only)", minimum=0, affects="outcome"
    )
    beta1: float = setting(0.9, "decay of the first moment (adamw only)", minimum=0, below=1, affects="outcome")
    beta2: float = setting(0.98, "decay of the second moment", above=0, below=1, affects="outcome")
    sigma_rate: float = setting(
        10.0, "learning rate of log σ and log τ relative to that of the other weights", above=0, affects="outcome"
    )
    clip_norm: float | None = setting(1.0, "largest norm of the whole gradient; null: no clipping", above=0)
    average: float | None = setting(
        0.999, "decay per update of the moving average of the weights that is saved; null: none", above=0, below=1
    )

    def __post_init__(self) -> None:
        if self.optimizer == "rmsprop" and self.weight_decay:
            raise ConfigError("weight_decay: rmsprop has none; set it to 0")


@dataclass(frozen=True, kw_only=True)
class TrainingConfig(OptimizerConfig):
    """How long to train, on which batches, and when to validate."""

    batch_tokens: int = setting(
        2048, "sentence pairs × longest source or target of a batch, padding included", minimum=1, affects="order"
    )
    batch_sentences: int | None = setting(
        None, "largest number of sentence pairs per batch; null: no limit", minimum=1, affects="order"
    )
    by_length: bool = setting(
        True, "batch pairs of similar length; false: batch_sentences random pairs", affects="order"
    )
    accumulation: int = setting(1, "batches per update", minimum=1, affects="order")
    label_smoothing: float = setting(0.1, "ε of label smoothing", minimum=0, below=1)
    r_drop: float | None = setting(
        None,
        "α of R-Drop (Liang et al. 2021, who use 5 for translation): two passes with different dropout are made to "
        "agree, which doubles the cost of an update; null: one pass",
        above=0,
    )
    padding_in_loss: bool = setting(False, "learn to predict padding too (the paper; needs model.mask_padding false)")
    epochs: int = setting(20, "passes over the training pairs", minimum=1, affects="limit")
    updates: int | None = setting(
        None, "stop after this many updates, unless epochs end earlier; null: no limit", minimum=1, affects="limit"
    )
    minutes: float | None = setting(
        None, "stop after this many minutes of training and validation; null: no limit", above=0, affects="limit"
    )
    patience: int | None = setting(
        5, "stop after this many validations without a better one; null: never", minimum=1, affects="limit"
    )
    best: Literal["loss", "bleu"] = setting("loss", "which score makes a validation the best one", affects="outcome")
    average_checkpoints: int | None = setting(
        None,
        "finally try the mean of this many of the best validated weights, kept if better; null: no",
        minimum=2,
        affects="outcome",
    )
    validation_sentences: int = setting(
        500, "sentences of the validation split that are translated to measure BLEU", minimum=1, affects="outcome"
    )
    validation_beam: int = setting(1, "beam size of that BLEU", minimum=1, affects="outcome")
    subword_dropout: float = setting(
        0.0,
        "bpe: probability of skipping a merge (BPE-dropout, Provilkov et al. 2020, who use 0.1); unigram: exponent of "
        "sampling a segmentation (Kudo 2018); 0: none. Applies to training pairs, anew every epoch",
        minimum=0,
        maximum=1,
    )
    precision: Literal["auto", "fp32", "bf16"] = setting(
        "auto", "auto: bfloat16 products where the hardware is fast at them"
    )
    compile: Literal["auto", "none", "static", "graph"] = setting(
        "none",
        "updates of fixed shapes with the corpus on the device: static one operation at a time, graph as CUDA graphs; "
        "auto: graph on a CUDA device if one process trains, without R-Drop, on a corpus of less than a quarter of its "
        "memory; otherwise none. Graphs have not run on a GPU yet",
        removed={"inductor": "0.2.0; set it to static or none, which make the same updates"},
    )
    seed: int = setting(1, "seed of the weights, the order of the data and dropout", minimum=0, affects="order")
    report_updates: int = setting(20, "updates between two reports", minimum=1, affects="outcome")
    save_minutes: float = setting(
        5.0, "minutes between two saved states, in addition to the one after every epoch", above=0, affects="outcome"
    )
    evaluate_test: bool = setting(True, "score the test split at the end, by the decoding settings", affects="outcome")
    tensorboard: bool = setting(
        False, "write TensorBoard event files into the run folder (needs projtrans[tensorboard])", affects="limit"
    )
    export: bool = setting(
        True, "export the best weights for ONNX Runtime at the end, if projtrans[fast] is installed", affects="outcome"
    )


@dataclass(frozen=True, kw_only=True)
class Config:
    """The whole configuration."""

    corpus: CorpusConfig = setting(CorpusConfig, "the parallel text")
    model: ModelConfig = setting(ModelConfig, "the network")
    training: TrainingConfig = setting(TrainingConfig, "how it learns", affects="update")
    decoding: DecodingConfig = setting(DecodingConfig, "how it translates", affects="outcome")

    def __post_init__(self) -> None:
        if self.training.padding_in_loss and self.model.mask_padding:
            raise ConfigError(
                "training.padding_in_loss: needs model.mask_padding false, where padding has a fixed length"
            )
        if self.training.r_drop is not None and not (
            self.model.dropout or self.model.attention_dropout or self.model.output_dropout
        ):
            raise ConfigError(
                "training.r_drop: without dropout both passes are the same; set model.dropout, or r_drop to null"
            )
        if self.training.subword_dropout and self.corpus.tokenizer == "word":
            raise ConfigError("training.subword_dropout: the word tokenizer has no subwords; set it to 0")
        if not self.training.by_length and self.training.batch_sentences is None:
            raise ConfigError("training.by_length: false needs training.batch_sentences, the size of a random batch")


Overrides = Sequence[tuple[str, Any]]
"""Flags: dotted path and value."""


def affecting(*what: Affects) -> set[str]:
    """The dotted paths of the settings that affect one of these."""
    return {path for path, affects in config.affected(Config).items() if affects in what}


def resolve(raw: Raw, *, attention: str | None = None, sets: Sequence[str] = (), flags: Overrides = ()) -> Config:
    """The configuration of a file's settings with `--attention`, then `--set` assignments, then flags on top.

    attention: replaces the kind, and drops what the file sets for another kind.
    Raises ConfigError with the dotted path of what is wrong.
    """
    if attention is not None:
        given = _at(raw, ["model", "attention"])
        kind = given.get("kind", ModelConfig().attention.kind) if isinstance(given, dict) else None
        if kind != attention:
            config.put(raw, ["model", "attention"], {"kind": attention})
        flags = [*flags, ("model.attention.kind", attention)]
    return _build(raw, sets, flags)


def resumed(run: Run, *, sets: Sequence[str], flags: Overrides, allow_changes: bool = False) -> Config:
    """The configuration of a run with other limits, or with allow_changes any change that its weights can survive.

    Raises ConfigError for any other change.
    """
    before, after = of_run(run), _build(run.raw_config, sets, flags)
    changes = differing([flat(config.dump(settings)) for settings in (before, after)])
    free = affecting("limit")
    refused = {path: values for path, values in changes.items() if path not in free}
    reasons = {path: _fixed(path, *values) for path, values in refused.items()}
    never = [_change(path, refused[path]) + f": {reason}" for path, reason in reasons.items() if reason]
    if never:
        raise ConfigError(f"--resume: cannot change {'; '.join(never)}; train anew under another --run DIR")
    if refused and not allow_changes:
        named = ", ".join(_change(path, values) for path, values in refused.items())
        raise ConfigError(
            f"--resume: cannot change {named} in {run.folder}; add --allow-changes to resume with it, or train anew "
            "under another --run DIR"
        )
    return after


def _change(path: str, values: Sequence[Any]) -> str:
    return f"{path} ({values[0]} to {values[1]})"


def _fixed(path: str, before: Any, after: Any) -> str | None:
    """Why a run can never be resumed with that change; None if it can."""
    if path == "training.optimizer":
        return "its moments are another optimiser's"
    if path == "training.average" and None in (before, after):
        return "the average begins with the run or not at all"
    if path not in affecting("weights", "start"):
        return None
    if path.startswith("corpus."):
        return "the weights have learned that corpus in those tokens"
    return "the weights are those of that model"


def _build(raw: Raw, sets: Sequence[str], flags: Overrides) -> Config:
    for assignment in sets:
        config.assign(raw, assignment)
    for dotted, value in flags:
        config.put(raw, dotted.split("."), value)
    return config.build(Config, raw)


def _at(raw: Any, keys: Iterable[str]) -> Any:
    for key in keys:
        raw = raw.get(key) if isinstance(raw, dict) else None
    return raw


def of_run(run: Run) -> Config:
    """The whole configuration of a run, defaults included; raises RunError if this version does not accept it."""
    raw = run.raw_config
    try:
        return _build(raw, [], [])
    except ConfigError as error:
        raise RunError(f"run {run.folder}: config.yaml: {error}") from error


def flat(raw: Raw, path: str = "") -> dict[str, Any]:
    """Every setting of nested sections by its dotted path."""
    found: dict[str, Any] = {}
    for key, value in raw.items():
        found |= flat(value, f"{path}{key}.") if isinstance(value, dict) else {f"{path}{key}": value}
    return found


def differing(configurations: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """The settings that are not the same in all flat configurations, with the value in each; None where it is missing.

    A setting that is null in one and missing in another differs too: the kinds of attention have settings of their own.
    """
    paths = dict.fromkeys(path for configuration in configurations for path in configuration)
    return {
        path: [configuration.get(path) for configuration in configurations]
        for path in paths
        if any(path not in other or other[path] != configurations[0].get(path) for other in configurations)
    }
