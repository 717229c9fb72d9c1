"""The command `train`: from a prepared corpus and a configuration to a run folder with its scores.

trainer.py is the loop; here stand its beginning and its end.
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
from projtrans.evaluation.evaluate import Evaluation, evaluate
from projtrans.evaluation.test_scores import keep
from projtrans.inference.onnx_export import export, missing
from projtrans.inference.torch_translator import Translator
from projtrans.model import devices
from projtrans.model.multihead import initial_sigmas
from projtrans.runs import curves
from projtrans.runs.run_folder import Run
from projtrans.runs.settings import Config
from projtrans.training.distributed import ALONE, Group
from projtrans.training.events import Event, Exported, Finished, Report, Started, Testing
from projtrans.training.trainer import Trainer
from projtrans.training.watchers import Board, Curves, check_tensorboard


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
    """Train into a new run folder, or go on in an old one, and return its summary, which the leader of a group writes.

    stop_signal: asked after every update; a signal number makes training save its state and raise Interrupted.
    Raises DivergedError, DataError (nothing left to train on), ConfigError, RunError (nothing to resume, or a
    run that another process is training).
    """
    if settings.training.tensorboard:
        check_tensorboard()
    trainer = Trainer(settings, run, tokenizer, splits["train"], splits["valid"], device, report, group)
    trainer.stop_signal = stop_signal
    with contextlib.ExitStack() as until_the_end:
        if resume and group.is_leader:
            until_the_end.enter_context(run.held())
        if resume and run.has_begun:
            trainer.restore()
        else:
            trainer.initialise()
        trainer.probe()
        if group.is_leader and not resume:  # only now: settings that make no model, or one too large, leave no folder
            run.create(config.dump(settings), tokenizer)
            until_the_end.enter_context(run.held())
        trainer.follow()
        report(_started(trainer))
        return _trained(trainer, splits["test"], report)


def _trained(trainer: Trainer, test_pairs: Sequence[Pair], report: Report) -> dict[str, Any]:
    run, leads, training = trainer.run, trainer.group.is_leader, trainer.training
    with _watched(trainer):
        reason = trainer.train()
    if trainer.counters.best is None:
        raise DivergedError("training diverged: the validation loss was never finite; lower training.learning_rate")
    test = _test(trainer, test_pairs, report) if training.evaluate_test and leads else None
    summary = _summary(trainer, reason, test)
    if leads:
        files.write_json(run.summary_file, summary)
        if training.export and not missing():
            report(_exported(run))
    report(Finished(str(run.folder), reason, summary, test))
    return summary


@contextlib.contextmanager
def _watched(trainer: Trainer) -> Iterator[None]:
    """While it trains: TensorBoard's event files where they are asked for, a picture where one can be drawn."""
    if not trainer.group.is_leader:
        yield
        return
    with contextlib.ExitStack() as open_until_the_end:
        watchers = [trainer.report]
        open_until_the_end.callback(setattr, trainer, "report", trainer.report)
        if trainer.training.tensorboard:
            board = Board(trainer.run, trainer.counters.update)
            watchers.append(open_until_the_end.enter_context(board))
        if curves.installed():
            watchers.append(open_until_the_end.enter_context(Curves(trainer.run)))

        def report(event: Event) -> None:
            for watcher in watchers:
                watcher(event)

        trainer.report = report
        yield


def _started(trainer: Trainer) -> Started:
    settings, model = trainer.settings, trainer.model
    precision = "bf16" if devices.bfloat16_pays(trainer.device) else "fp32"
    return Started(
        run=str(trainer.run.folder),
        device=_device(trainer),
        precision=precision if settings.training.precision == "auto" else settings.training.precision,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        train_pairs=len(trainer.examples),
        left_out=trainer.left_out,
        updates_an_epoch=trainer.per_epoch,
        last_update=trainer.last_update,
        update=trainer.counters.update,
        source_padding=trainer.padding[0],
        target_padding=trainer.padding[1],
        sigma=initial_sigmas(model),
    )


def _device(trainer: Trainer) -> str:
    several = f"{trainer.group.size} processes, each on " if trainer.group.size > 1 else ""
    return several + devices.describe(trainer.device)


def _test(trainer: Trainer, pairs: Sequence[Pair], report: Report) -> Evaluation:
    def progress(done: int, total: int) -> None:
        number = trainer.stop_signal()
        if number is not None:
            again = f"projtrans evaluate {shlex.quote(str(trainer.run.folder))}"
            raise Interrupted(f"training is complete; score it with: {again}", number)
        report(Testing(done, total))

    translator = Translator.of_run(trainer.run, trainer.device)
    evaluation, texts = evaluate(translator, pairs, run=str(trainer.run.folder), split="test", report=progress)
    keep(trainer.run, pairs, translator, evaluation, texts)
    return evaluation


def _exported(run: Run) -> Exported:
    """The run's float32 graphs; a model that has none is trained and finished all the same."""
    try:
        export(run, ["float32"])
    except RunError as error:
        return Exported(str(run.folder), str(error))
    return Exported(str(run.folder), None)


def _summary(trainer: Trainer, reason: str, test: Evaluation | None) -> dict[str, Any]:
    counters = trainer.counters
    return {
        "run": trainer.run.folder.name,
        "reason": reason,
        "epochs": counters.epoch,
        "updates": counters.update,
        "best_epoch": counters.best_epoch,
        "shaped_by": _shaped_by(trainer),
        "skipped_updates": counters.skipped,
        "averaged": trainer.averaged.updates if trainer.averaged and trainer.averaged.best else None,
        "seconds": round(counters.seconds, 3),
        "training_seconds": round(counters.training_seconds, 3),
        "compile": trainer.mode,
        "parameters": sum(parameter.numel() for parameter in trainer.model.parameters()),
        "source_padding": round(trainer.padding[0], 4),
        "target_padding": round(trainer.padding[1], 4),
        "test": test.to_json() if test else None,
        "device": _device(trainer),
        "versions": {"projtrans": __version__, "torch": torch.__version__, "python": platform.python_version()},
    }


def _shaped_by(trainer: Trainer) -> list[str]:
    """What of chance and clock has shaped the run, in words: without any, the same command gives the same weights."""
    counters, minutes = trainer.counters, trainer.training.minutes
    return [
        *(["minutes"] if minutes is not None and counters.seconds >= 60 * minutes else []),
        *([f"batches halved {counters.halvings} times"] if counters.halvings else []),
        *([f"{counters.rollbacks} returns to a good state"] if counters.rollbacks else []),
    ]
