"""The command `train`: from a prepared corpus and a configuration to a run folder with its scores.

The beginning and the end of a run; trainer.py is the loop between them. Renders nothing.
"""

import contextlib
import platform
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from projtrans import __version__, config, files
from projtrans.data.corpus import Pair
from projtrans.data.tokenizer import Tokenizer
from projtrans.errors import DivergedError, Interrupted, RunError
from projtrans.evaluation.evaluate import Evaluation
from projtrans.evaluation.test_scores import score
from projtrans.inference.onnx_export import export, missing
from projtrans.inference.torch_translator import Translator
from projtrans.model import devices
from projtrans.model.multihead import initial_sigmas
from projtrans.runs.run_folder import Run
from projtrans.runs.settings import Config
from projtrans.training.distributed import ALONE, Group
from projtrans.training.events import Event, Exported, Finished, Report, Started, Testing
from projtrans.training.trainer import Trainer
from projtrans.training.watchers import watchers_of


def train(
    settings: Config,
    run: Run,
    tokenizer: Tokenizer,
    splits: Mapping[str, Sequence[Pair]],
    *,
    device: torch.device,
    resume: bool = False,
    report: Report = lambda event: None,
    stop_signal: Callable[[], int | None] = lambda: None,
    group: Group = ALONE,
) -> dict[str, Any]:
    """Train into a new run folder, or resume an old one, and return its summary, which the leader of a group writes.

    stop_signal: asked after every update; a signal number makes training save its state and raise Interrupted.
    Raises DivergedError, DataError (nothing left to train on), ConfigError, RunError (nothing to resume, or a
    run that another process is training).
    """
    watchers = watchers_of(run, tensorboard=settings.training.tensorboard) if group.is_leader else []
    report = _to_all([report, *watchers])
    trainer = Trainer(
        settings, run, tokenizer, splits["train"], splits["valid"], device,
        report=report, stop_signal=stop_signal, group=group,
    )  # fmt: skip
    with _begun(trainer, resume):
        report(_started(trainer))
        with contextlib.ExitStack() as training:
            for watcher in watchers:
                training.callback(watcher.close)
            reason = trainer.train()
        return _finished(trainer, reason, splits["test"], report)


def _to_all(receivers: Sequence[Report]) -> Report:
    def report(event: Event) -> None:
        for receive in receivers:
            receive(event)

    return report


@contextlib.contextmanager
def _begun(trainer: Trainer, resume: bool) -> Iterator[None]:
    """A run folder that no other process trains in, with the trainer where it begins or resumes."""
    run, leads = trainer.run, trainer.group.is_leader
    with contextlib.ExitStack() as until_the_end:
        if resume and leads:
            until_the_end.enter_context(run.held())
        if resume and run.has_begun:
            trainer.restore()
        else:
            trainer.initialise()
        trainer.probe()
        if leads and not resume:  # only now: settings that make no model, or one too large, leave no folder
            run.create(config.dump(trainer.settings), trainer.tokenizer)
            until_the_end.enter_context(run.held())
        trainer.follow()
        yield


def _finished(trainer: Trainer, reason: str, test_pairs: Sequence[Pair], report: Report) -> dict[str, Any]:
    """Score the test split, write the summary, export the model."""
    run, leads, training = trainer.run, trainer.group.is_leader, trainer.training
    if trainer.state.counters.best is None:
        raise DivergedError("training diverged: the validation loss was never finite; lower training.learning_rate")
    test = _test(trainer, test_pairs, report) if training.evaluate_test and leads else None
    summary = _summary(trainer, reason, test)
    if leads:
        files.write_json(run.summary_file, summary)
        if training.export and not missing():
            report(_exported(run))
    report(Finished(str(run.folder), reason, summary, test))
    return summary


def _started(trainer: Trainer) -> Started:
    plan, state, precision = trainer.plan, trainer.state, trainer.training.precision
    return Started(
        run=str(trainer.run.folder),
        device=_device(trainer),
        precision=("bf16" if devices.bfloat16_pays(state.device) else "fp32") if precision == "auto" else precision,
        parameters=_parameters(trainer),
        train_pairs=len(plan.examples),
        left_out=plan.left_out,
        updates_an_epoch=plan.per_epoch,
        last_update=plan.last_update,
        update=state.counters.update,
        source_padding=plan.padding[0],
        target_padding=plan.padding[1],
        sigma=initial_sigmas(state.model),
    )


def _device(trainer: Trainer) -> str:
    several = f"{trainer.group.size} processes, each on " if trainer.group.size > 1 else ""
    return several + devices.describe(trainer.state.device)


def _parameters(trainer: Trainer) -> int:
    return sum(parameter.numel() for parameter in trainer.state.model.parameters())


def _test(trainer: Trainer, pairs: Sequence[Pair], report: Report) -> Evaluation:
    def progress(done: int, total: int) -> None:
        number = trainer.stop_signal()
        if number is not None:
            again = f"projtrans evaluate {shlex.quote(str(trainer.run.folder))}"
            raise Interrupted(f"training is complete; score it with: {again}", number)
        report(Testing(done, total))

    weights = files.checksum(trainer.run.model_file)
    translator = Translator.of_run(trainer.run, trainer.state.device)
    scored = score(trainer.run, pairs, translator, weights=weights, report=progress)
    if scored.problem:
        raise RunError(scored.problem)
    return scored.evaluation


def _exported(run: Run) -> Exported:
    """Export the float32 graphs; a model that has none is trained and finished all the same."""
    try:
        export(run, ["float32"])
    except RunError as error:
        return Exported(str(run.folder), str(error))
    return Exported(str(run.folder), None)


def _summary(trainer: Trainer, reason: str, test: Evaluation | None) -> dict[str, Any]:
    counters, averaged = trainer.state.counters, trainer.validator.averaged
    return {
        "run": trainer.run.folder.name,
        "reason": reason,
        "epochs": counters.epoch,
        "updates": counters.update,
        "best_epoch": counters.best_epoch,
        "shaped_by": _shaped_by(trainer),
        "skipped_updates": counters.skipped,
        "averaged": averaged.updates if averaged and averaged.best else None,
        "seconds": round(counters.seconds, 3),
        "training_seconds": round(counters.training_seconds, 3),
        "compile": trainer.mode,
        "parameters": _parameters(trainer),
        "source_padding": round(trainer.plan.padding[0], 4),
        "target_padding": round(trainer.plan.padding[1], 4),
        "test": test.to_json() if test else None,
        "device": _device(trainer),
        "versions": {"projtrans": __version__, "torch": torch.__version__, "python": platform.python_version()},
    }


def _shaped_by(trainer: Trainer) -> list[str]:
    """What of chance and clock has shaped the run, in words; subword dropout, which does so too, is not listed."""
    counters, minutes = trainer.state.counters, trainer.training.minutes
    return [
        *(["minutes"] if minutes is not None and counters.seconds >= 60 * minutes else []),
        *([f"batches halved {_times(counters.halvings)}"] if counters.halvings else []),
        *([f"gone back to a good state {_times(counters.rollbacks)}"] if counters.rollbacks else []),
    ]


def _times(count: int) -> str:
    return f"{count} time{'s' * (count > 1)}"
