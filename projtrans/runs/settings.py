"""The whole configuration of a run: its four sections, flags on top of a file, and what a resumed run may change.

The sections are declared beside their users, except that of training: the loop takes the whole, so it stands here.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from projtrans import config
from projtrans.config import Raw, setting
from projtrans.data.corpus import CorpusConfig
from projtrans.errors import ConfigError, RunError
from projtrans.model.transformer import ModelConfig
from projtrans.runs.run_folder import Run
from projtrans.search.decoding import DecodingConfig


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """How gradients move the weights."""

    optimizer: Literal["adamw", "rmsprop"] = setting(
        "adamw", "adamw (Loshchilov & Hutter 2019) or rmsprop (as in Keras)"
    )
    learning_rate: float = setting(1e-3, "peak learning rate", above=0)
    schedule: Literal["cosine", "inverse_sqrt", "constant"] = setting(
        "cosine", "after the warm-up: cosine to 0 at the last update, inverse square root of the update, or constant"
    )
    warmup_updates: int = setting(500, "updates of linear warm-up, at most a tenth of all", minimum=0)
    weight_decay: float = setting(0.01, "of matrices; not of biases, norms, σ and τ (adamw only)", minimum=0)
    beta1: float = setting(0.9, "decay of the first moment (adamw)", minimum=0, below=1)
    beta2: float = setting(
        0.98, "decay of the second moment (adamw), of the squared gradient (rmsprop)", above=0, below=1
    )
    sigma_rate: float = setting(10.0, "learning rate of log σ and log τ, relative to the others'", above=0)
    clip_norm: float | None = setting(1.0, "largest norm of the whole gradient; null: no clipping", above=0)
    average: float | None = setting(
        0.999,
        "decay an update of the moving average of the weights, which is what is saved; null: none",
        above=0,
        below=1,
    )

    def __post_init__(self) -> None:
        if self.optimizer == "rmsprop" and self.weight_decay:
            raise ConfigError("weight_decay: rmsprop has none; set it to 0")


@dataclass(frozen=True, kw_only=True)
class TrainingConfig(OptimizerConfig):
    """How long, on what batches, and when to look."""

    batch_tokens: int = setting(2048, "sentence pairs × longest side of a batch, padding included", minimum=1)
    batch_sentences: int | None = setting(None, "at most so many sentence pairs a batch", minimum=1)
    by_length: bool = setting(True, "batches of like length; false: of batch_sentences random pairs")
    accumulation: int = setting(1, "batches an update", minimum=1)
    label_smoothing: float = setting(0.1, "ε of label smoothing", minimum=0, below=1)
    r_drop: float | None = setting(
        None,
        "α of R-Drop (Liang et al. 2021; there 5 for translation): two passes with other dropout that are to agree, "
        "which doubles the cost of an update; null: one pass",
        above=0,
    )
    padding_in_loss: bool = setting(False, "learn to predict padding too (the paper; needs model.mask_padding false)")
    epochs: int = setting(20, "passes over the training pairs", minimum=1)
    updates: int | None = setting(None, "stop after so many updates, if epochs do not end before", minimum=1)
    minutes: float | None = setting(None, "stop after so many minutes of training and validation", above=0)
    patience: int | None = setting(5, "stop after so many validations without a better one; null: never", minimum=1)
    best: Literal["loss", "bleu"] = setting("loss", "what makes a validation the best one")
    average_checkpoints: int | None = setting(
        None,
        "at the end, try the mean of the best so many validated weights too, and keep it where it is better; null: no",
        minimum=2,
    )
    validation_sentences: int = setting(500, "sentences of the validation split whose BLEU is measured", minimum=1)
    validation_beam: int = setting(1, "beam size of that BLEU", minimum=1)
    subword_dropout: float = setting(
        0.0,
        "bpe: chance of leaving out a merge (BPE-dropout, Provilkov et al. 2020; 0.1 there); unigram: exponent of "
        "sampling a segmentation (Kudo 2018); 0: none. Of training pairs, anew every epoch",
        minimum=0,
        maximum=1,
    )
    precision: Literal["auto", "fp32", "bf16"] = setting(
        "auto", "auto: bfloat16 products where the hardware is good at them"
    )
    compile: Literal["auto", "none", "static", "graph"] = setting(
        "none",
        "fixed shapes with the corpus on the device: static as they are, graph as CUDA graphs; auto: graph on a CUDA "
        "device, where one process trains, without R-Drop, a corpus of less than a quarter of its memory; otherwise "
        "none. Graphs have not run on a GPU yet",
    )
    seed: int = setting(1, "of the weights, the order of the data and dropout", minimum=0)
    report_updates: int = setting(20, "updates between two reports", minimum=1)
    save_minutes: float = setting(5.0, "minutes between two saved states, besides the one after every epoch", above=0)
    evaluate_test: bool = setting(True, "score the test split at the end, with the decoding settings")
    tensorboard: bool = setting(
        False, "write TensorBoard event files into the run folder (needs projtrans[tensorboard])"
    )
    export: bool = setting(True, "export the best weights for ONNX Runtime at the end, where projtrans[fast] is there")


@dataclass(frozen=True, kw_only=True)
class Config:
    """The whole configuration."""

    corpus: CorpusConfig = setting(CorpusConfig, "the parallel text")
    model: ModelConfig = setting(ModelConfig, "the network")
    training: TrainingConfig = setting(TrainingConfig, "how it learns")
    decoding: DecodingConfig = setting(DecodingConfig, "how it translates")

    def __post_init__(self) -> None:
        if self.training.padding_in_loss and self.model.mask_padding:
            raise ConfigError(
                "training.padding_in_loss: needs model.mask_padding false, where padding has a fixed length"
            )
        if self.training.r_drop is not None and not (
            self.model.dropout or self.model.attention_dropout or self.model.output_dropout
        ):
            raise ConfigError("training.r_drop: without dropout both passes are the same; set model.dropout, or null")
        if self.training.subword_dropout and self.corpus.tokenizer == "word":
            raise ConfigError("training.subword_dropout: the word tokenizer has no subwords; set it to 0")
        if not self.training.by_length and self.training.batch_sentences is None:
            raise ConfigError("training.by_length: false needs training.batch_sentences, the size of a random batch")


LIMITS = ("epochs", "updates", "minutes", "patience", "tensorboard")
"""Settings of training that a resumed run may change: they say when to stop or what to show, not how to learn."""


ORDER = ("seed", "batch_tokens", "batch_sentences", "by_length", "accumulation")
"""Settings of training that decide which pairs stand in which batch, and when."""

REMOVED = {("training.compile", "inductor"): "0.2.0; set it to graph, or to none"}
"""Settings and values that earlier versions had: since when they are gone, and what to do."""

DROPOUTS = ("model.dropout", "model.attention_dropout", "model.output_dropout")


Overrides = Sequence[tuple[str, Any]]
"""Flags: dotted path and value."""


def resolve(raw: Raw, *, attention: str | None = None, sets: Sequence[str] = (), flags: Overrides = ()) -> Config:
    """The configuration of a file's settings with `--attention`, then `--set` assignments, then flags on top.

    attention: replaces the kind, and drops what the file set for another kind.
    Raises ConfigError with the dotted path of whatever does not fit.
    """
    if attention is not None:
        given = _at(raw, ["model", "attention"])
        kind = given.get("kind", ModelConfig().attention.kind) if isinstance(given, dict) else None
        if kind != attention:
            config.put(raw, ["model", "attention"], {"kind": attention})
        flags = [*flags, ("model.attention.kind", attention)]
    return _build(raw, sets, flags)


def resumed(run: Run, *, sets: Sequence[str], flags: Overrides, allow_changes: bool = False) -> Config:
    """The configuration of a run with changes of its limits, or with allow_changes of whatever its weights survive.

    Raises ConfigError for any other change.
    """
    after = _build(run.raw_config, sets, flags)
    changes = differing([flat(config.dump(made)) for made in (_build(run.raw_config, [], []), after)])
    refused = {path: values for path, values in changes.items() if path not in _limits()}
    reasons = {path: _fixed(path, *values) for path, values in refused.items()}
    never = [_change(path, refused[path]) + f": {reason}" for path, reason in reasons.items() if reason]
    if never:
        raise ConfigError(f"--resume: cannot change {'; '.join(never)}; train anew under another --run DIR")
    if refused and not allow_changes:
        named = ", ".join(_change(path, values) for path, values in refused.items())
        raise ConfigError(
            f"--resume: cannot change {named} in {run.folder}; add --allow-changes to go on so, or train anew under "
            "another --run DIR"
        )
    return after


def _limits() -> set[str]:
    return {f"training.{name}" for name in LIMITS}


def _change(path: str, values: Sequence[Any]) -> str:
    return f"{path} ({values[0]} to {values[1]})"


def _fixed(path: str, before: Any, after: Any) -> str | None:
    """Why a run cannot go on with that change, in words; None where it can."""
    if path.startswith("corpus."):
        return "the weights have learned that corpus in those pieces"
    if path.startswith("model.") and path not in DROPOUTS:
        return "the weights are those of that model"
    if path == "training.optimizer":
        return "its moments are another optimiser's"
    if path == "training.average" and None in (before, after):
        return "the average begins with the run or not at all"
    return None


def _build(raw: Raw, sets: Sequence[str], flags: Overrides) -> Config:
    for assignment in sets:
        config.assign(raw, assignment)
    for dotted, value in flags:
        config.put(raw, dotted.split("."), value)
    for (dotted, removed), remedy in REMOVED.items():
        if _at(raw, dotted.split(".")) == removed:
            raise ConfigError(f"{dotted}: {removed} was removed in {remedy}")
    return config.build(Config, raw)


def _at(raw: Any, keys: Iterable[str]) -> Any:
    for key in keys:
        raw = raw.get(key) if isinstance(raw, dict) else None
    return raw


def of_run(run: Run) -> Config:
    """The whole configuration of a run, defaults included; raises RunError where it does not fit this version."""
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
    """The settings that are not the same in all of the flat configurations: each one's value, None where it has none.

    A setting that is null in one and missing in another differs too: the kinds of attention have settings of their own.
    """
    paths = dict.fromkeys(path for configuration in configurations for path in configuration)
    return {
        path: [configuration.get(path) for configuration in configurations]
        for path in paths
        if any(path not in other or other[path] != configurations[0].get(path) for other in configurations)
    }
