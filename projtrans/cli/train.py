"""The command `train`: flags to a run setup, then training or its preview, with its display."""

from typing import TYPE_CHECKING

from projtrans.cli import options as o
from projtrans.cli.signals import StopSignals
from projtrans.errors import ConfigError

if TYPE_CHECKING:
    from projtrans.runs.run_setup import RunSetup
    from projtrans.training.distributed import Group


def train(
    config: o.Config = None,
    data: o.Data = None,
    run: o.RunFolder = None,
    attention: o.Attention = None,
    sigma_self: o.SigmaSelf = None,
    sigma_cross: o.SigmaCross = None,
    sets: o.Set = None,
    seed: o.Seed = None,
    max_minutes: o.MaxMinutes = None,
    resume: o.Resume = False,
    allow_changes: o.AllowChanges = False,
    dry_run: o.DryRun = False,
    device: o.Device = "auto",
    threads: o.Threads = None,
    quiet: o.Quiet = False,
) -> None:
    """Train a model in a new run folder, or --resume a stopped run.

    The default configuration is phrasebook. A corpus that has not been prepared is prepared first.

    Example: projtrans train --attention projection
    """
    given = {
        "training.seed": seed,
        "training.minutes": max_minutes,
        "model.attention.sigma.self": sigma_self,
        "model.attention.sigma.cross": sigma_cross,
    }
    overrides = [(path, value) for path, value in given.items() if value is not None]
    from projtrans.cli import displays
    from projtrans.runs import run_setup
    from projtrans.training import distributed

    if allow_changes and not resume:
        raise ConfigError("--allow-changes: a new run has its settings as they are; leave it out, or add --resume")
    if dry_run and resume:
        raise ConfigError("--dry-run: measures a new run, not a resumed one; leave --resume out")
    flags = run_setup.Flags(attention=attention, sets=sets or [], overrides=overrides)
    with distributed.joined() as group:
        quiet, text = quiet or not group.is_leader, ""
        if group.is_leader:
            with displays.PrepareDisplay(quiet) as preparing:
                if resume:
                    setup = run_setup.resume(config, flags, run=run, data=data, allow_changes=allow_changes)
                else:
                    setup = run_setup.begin(config, flags, run=run, data=data, report=preparing)
            text = setup.to_json()
        setup = run_setup.RunSetup.from_json(group.broadcast(text))
        _train(setup, group, resume=resume, dry_run=dry_run, device=device, threads=threads, quiet=quiet)


def _train(
    setup: "RunSetup", group: "Group", *, resume: bool, dry_run: bool, device: str, threads: int | None, quiet: bool
) -> None:
    """Open the data and train, or measure what training would be."""
    from projtrans.cli import displays
    from projtrans.data.data_folder import load_tokenizer, open_splits
    from projtrans.model import devices
    from projtrans.training import dry_run as measuring
    from projtrans.training import train as training

    devices.use_threads(threads)
    target = group.device(devices.choose(device))
    tokenizer = load_tokenizer(setup.data)
    if not group.is_leader:
        group.barrier()  # the leader encodes what is not encoded yet
    with displays.PrepareDisplay(quiet) as encoding:
        splits = open_splits(setup.data, tokenizer, encoding)
    if group.is_leader:
        group.barrier()
    if dry_run:
        with displays.TrainingDisplay(quiet) as display:
            found = measuring.preview(setup.settings, setup.run, tokenizer, splits, device=target, report=display)
        if group.is_leader:
            displays.print_preview(found)
        return
    with StopSignals(patient=group.size > 1) as stop_signal, displays.TrainingDisplay(quiet) as display:
        training.train(
            setup.settings,
            setup.run,
            tokenizer,
            splits,
            device=target,
            resume=resume,
            report=display,
            stop_signal=stop_signal,
            group=group,
        )
