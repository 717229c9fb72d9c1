"""The command line: parse, call, render. Every command is the function of its name in the file of its name.

Standard output carries data only, standard error everything else. Torch takes over a second to import, so a command
imports what it calls when it is called: `--help` never waits.
"""

import json as jsonlib
import math
import signal
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import typer

from projtrans import __version__, files
from projtrans import options as o
from projtrans.errors import ConfigError, DataError
from projtrans.shell import Commands, noting, terminate, tune_allocator, write
from projtrans.stopping import StopSignals

if TYPE_CHECKING:
    from projtrans.corpus import Pair
    from projtrans.distributed import Group
    from projtrans.engine import Engine
    from projtrans.launch import Flags, Launch
    from projtrans.prompt import Opener
    from projtrans.run import Run
    from projtrans.translate import Translator
    from projtrans.translation import SentenceTranslator

    AnyTranslator = TypeVar("AnyTranslator", bound=SentenceTranslator)

SearchFlags = Mapping[str, float | None]
"""Flags by the names of the settings that they change; None: not given."""

VERSION = "Print the version."


app = typer.Typer(
    cls=Commands,
    rich_markup_mode=None,
    invoke_without_command=True,
    pretty_exceptions_enable=False,
    help="Train and run encoder-decoder Transformers for translation, with standard or projection attention.",
)


def main() -> None:
    """The console command `projtrans`."""
    if sys.argv[1:2] != ["prepare"]:  # it computes nothing, and gives memory back between its stages
        tune_allocator()
    signal.signal(signal.SIGTERM, terminate)
    app()


def _version(value: bool) -> None:
    if value:
        typer.echo(f"projtrans {__version__}")
        raise typer.Exit()


@app.callback()
def root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help=VERSION)] = False,
) -> None:
    """Without a command, print the help."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), err=True)
        raise typer.Exit(2)


@app.command()
def prepare(
    corpus: o.Corpus = None,
    output: o.OutputFolder = None,
    train_sides: o.TrainSides = None,
    valid_sides: o.ValidSides = None,
    test_sides: o.TestSides = None,
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
    """Make training data of a corpus: read it strictly, split it, train its tokenizer.

    Settings come from --config, or from the configuration shipped for the corpus.

    Example: projtrans prepare tatoeba-spa-eng
    """
    from projtrans import console, launch
    from projtrans import prepare as preparing

    flags = {"name": corpus, "direction": direction, "split": split, "seed": seed}
    flags |= {"tokenizer": tokenizer, "vocab_size": vocab_size}
    sides = _ready_made({"train": train_sides, "valid": valid_sides, "test": test_sides}, corpus)
    given = {key: value for key, value in flags.items() if value is not None}
    wanted = preparing.named(launch.corpus_config(config, given, bundled=sides is None), sides)
    folder = output or preparing.default_folder(wanted)
    with console.PrepareDisplay(quiet) as display:
        manifest = preparing.prepare(wanted, folder, archive=archive, files=sides, force=force, report=display)
    console.prepared(folder, manifest, quiet)


def _ready_made(sides: dict[str, tuple[Path, Path] | None], corpus: str | None) -> dict[str, tuple[Path, Path]] | None:
    given = {name: files for name, files in sides.items() if files is not None}
    missing = [f"--{name}" for name in sides if name not in given]
    if given and missing:
        raise ConfigError(f"prepare: ready-made splits need --train, --valid and --test; {', '.join(missing)} missing")
    if given and corpus is not None:
        raise ConfigError(f"prepare: {corpus} and ready-made splits exclude each other; leave one of them out")
    return given or None


@app.command()
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
    """Train a model into a run folder; with --resume, go on where a run was stopped.

    The default configuration is phrasebook; where nothing is prepared, the corpus is prepared first.

    Example: projtrans train --attention projection
    """
    given = {
        "training.seed": seed,
        "training.minutes": max_minutes,
        "model.attention.sigma.self": sigma_self,
        "model.attention.sigma.cross": sigma_cross,
    }
    overrides = [(path, value) for path, value in given.items() if value is not None]
    from projtrans import distributed, launch

    if allow_changes and not resume:
        raise ConfigError("--allow-changes: a new run has its settings as they are; leave it out, or add --resume")
    if dry_run and resume:
        raise ConfigError("--dry-run: looks at a new run, not at one that goes on; leave --resume out")
    flags = launch.Flags(attention=attention, sets=sets or [], overrides=overrides)
    with distributed.joined() as group:
        quiet = quiet or not group.leads
        launched = _launched(flags, config, run, data, resume, allow_changes, quiet) if group.leads else None
        launched = launch.Launch.from_json(group.tell(launched.to_json() if launched else ""))
        _train(launched, group, resume, dry_run, device, threads, quiet)


def _launched(
    flags: "Flags",
    config: str | None,
    run: Path | None,
    data: Path | None,
    resume: bool,
    allow_changes: bool,
    quiet: bool,
) -> "Launch":
    from projtrans import console, launch

    with console.PrepareDisplay(quiet) as preparing:
        if resume:
            return launch.resume(config, flags, run=run, data=data, allow_changes=allow_changes)
        return launch.begin(config, flags, run=run, data=data, report=preparing)


def _train(
    launched: "Launch", group: "Group", resume: bool, dry_run: bool, device: str, threads: int | None, quiet: bool
) -> None:
    from projtrans import console
    from projtrans import device as devices
    from projtrans import train as training
    from projtrans.prepare import load_tokenizer, open_splits

    devices.use_threads(threads)
    target = group.device(devices.choose(device))
    tokenizer = load_tokenizer(launched.data)
    if not group.leads:
        group.wait()  # the leader encodes what is not encoded yet
    with console.PrepareDisplay(quiet) as encoding:
        splits = open_splits(launched.data, tokenizer, encoding)
    if group.leads:
        group.wait()
    if dry_run:
        from projtrans.preview import preview

        with console.TrainingDisplay(quiet) as display:
            found = preview(launched.settings, launched.run, tokenizer, splits, device=target, report=display)
        if group.leads:
            console.print_preview(found)
        return
    with StopSignals(patient=group.size > 1) as stop_signal, console.TrainingDisplay(quiet) as display:
        training.train(
            launched.settings,
            launched.run,
            tokenizer,
            splits,
            device=target,
            resume=resume,
            report=display,
            stop_signal=stop_signal,
            group=group,
        )


@app.command()
def evaluate(
    run: o.Run = None,
    data: o.Data = None,
    split: o.ScoredSplit = "test",
    source: o.Source = None,
    reference: o.Reference = None,
    beam_size: o.BeamSize = None,
    length_penalty: o.LengthPenalty = None,
    json: o.Json = False,
    hypotheses: o.Hypotheses = None,
    output: o.JsonFile = None,
    device: o.Device = "auto",
    threads: o.Threads = None,
    quiet: o.Quiet = False,
) -> None:
    """Score a run: loss, accuracy, BLEU and chrF.

    Example: projtrans evaluate --json
    """
    from projtrans import console
    from projtrans import evaluate as evaluating
    from projtrans.run import open_run

    if (source is None) != (reference is None):
        raise ConfigError("evaluate: --source and --reference belong together; give both")
    opened = open_run(run)
    pairs = _own_pairs(source, reference) if source and reference else _split_pairs(opened, data, split)
    flags = {"beam_size": beam_size, "length_penalty": length_penalty}
    translator = _translator(opened, device, threads, flags)
    name = str(source or split)
    with console.Bar("evaluating", quiet) as bar:
        result, translations = evaluating.evaluate(translator, pairs, run=str(opened.folder), split=name, report=bar)
    if hypotheses:
        files.write_lines(hypotheses, translations)
    if output:
        files.write_json(output, result.to_json())
    if json:
        typer.echo(jsonlib.dumps(result.to_json(), ensure_ascii=False, indent=2))
    else:
        console.print_scores(result)


def _own_pairs(source: Path, reference: Path) -> "list[Pair]":
    from projtrans.corpus import read_sides

    pairs = list(read_sides(source, reference))
    if not pairs:
        raise DataError(f"{source}: no sentence pair in it")
    return pairs


def _split_pairs(run: "Run", data: Path | None, split: str) -> "list[Pair]":
    from projtrans.compare import run_data
    from projtrans.prepare import read_split

    return read_split(run_data(run, [data] if data else []), split)


@app.command()
def compare(
    runs: o.Runs,
    data: o.DataFolders = None,
    prompts: o.Prompts = None,
    figures: o.Figures = None,
    beam_size: o.BeamSize = None,
    length_penalty: o.LengthPenalty = None,
    format: o.ReportFormat = "text",
    output: o.Output = None,
    device: o.Device = "auto",
    threads: o.Threads = None,
    quiet: o.Quiet = False,
) -> None:
    """Set runs side by side: settings, time, learning curves, BLEU and chrF with significance, translations.

    Runs that differ in the seed alone are one side, with mean and deviation; the side of the first run is the baseline.

    Example: projtrans compare runs/phrasebook-standard runs/phrasebook-projection
    """
    from projtrans import compare as comparing
    from projtrans import console, figure, report

    figure.check(figures or [])
    flags = {"beam_size": beam_size, "length_penalty": length_penalty}
    opened = comparing.open_runs(runs)
    with console.Bars(quiet) as bars:
        found = comparing.compare(
            opened,
            lambda run: _translator(run, device, threads, flags),
            data=data or [],
            prompts=prompts,
            report=bars,
        )
    if format == "json":
        text = jsonlib.dumps(found.to_json(), ensure_ascii=False, indent=2)
    elif format == "markdown":
        text = report.markdown(report.sections(found))
    else:
        text = console.tables(report.sections(found), to_file=output not in (None, "-"))
    write(iter(text.split("\n")), output)
    figure.draw(found.sides, figures or [])  # last: what took minutes is written, whatever becomes of the picture


@app.command()
def translate(
    text: o.Text = None,
    model: o.Model = None,
    input: o.Input = None,
    output: o.Output = None,
    beam_size: o.BeamSize = None,
    length_penalty: o.LengthPenalty = None,
    n_best: o.NBest = 1,
    min_length: o.MinLength = None,
    max_length: o.MaxLength = None,
    no_repeat_ngram: o.NoRepeatNgram = None,
    prefix: o.Prefix = None,
    sample: o.Sample = None,
    temperature: o.Temperature = None,
    top_k: o.TopK = None,
    seed: o.SampleSeed = None,
    format: o.Format = "text",
    token_scores: o.TokenScores = False,
    alignment: o.Alignment = False,
    copy_unknown: o.CopyUnknown = False,
    sentences: o.Sentences = False,
    on_error: o.OnError = "fail",
    buffer: o.Buffer = 0.0,
    resume: o.ResumeTranslation = False,
    interactive: o.Interactive = False,
    engine: o.Engine = "auto",
    precision: o.Precision = None,
    device: o.Device = "auto",
    threads: o.Threads = None,
    quiet: o.Quiet = False,
) -> None:
    """Translate arguments, a stream or a file, or at a prompt.

    With TEXT, one translation a line. With input from a pipe or --input, one output line for every input line, in
    order, blank lines kept. Otherwise, on a terminal, an interactive prompt.

    Example: printf 'Hello.\\n' | projtrans translate
    """
    if text and (input or interactive):
        raise ConfigError("translate: TEXT excludes --input and --interactive; leave one of them out")
    if n_best > 1 and format == "text":
        raise ConfigError(f"--n-best {n_best}: a line of text holds one translation; add --format tsv or json")
    if sys.stdin is None and not text and input in (None, "-"):
        raise DataError("standard input: closed; give TEXT or --input FILE")
    if token_scores and format == "text":
        raise ConfigError("--token-scores: a line of text holds the translation alone; add --format tsv or json")
    prompted = interactive or (not text and input is None and sys.stdin.isatty())
    if not 0 <= buffer < math.inf:
        raise ConfigError(f"--buffer {buffer:g}: must be seconds, 0 or more")
    if resume and (prompted or None in (input, output) or "-" in (input, output)):
        raise ConfigError("--resume: goes on from a file to a file; give --input FILE and --output FILE")
    if alignment and format == "text":
        raise ConfigError("--alignment: a line of text holds a translation alone; add --format tsv or json")
    if alignment or copy_unknown:
        engine = _aligning(engine, precision, "--alignment" if alignment else "--copy-unknown")
    flags = {"beam_size": beam_size, "length_penalty": length_penalty, "no_repeat_ngram": no_repeat_ngram}
    flags |= {"min_length": min_length, "max_length": max_length}
    flags |= {"sample": sample, "temperature": temperature, "top_k": top_k, "seed": seed}
    ways = {"with_token_scores": token_scores, "sentence_by_sentence": sentences}
    ways |= {"with_copying": copy_unknown, "with_alignment": alignment}

    asked = partial(_asked, flags=flags, prefix=prefix, ways=ways)
    opened = _opener(model, engine, precision, asked, device=device, threads=threads, note=noting(quiet))
    if prompted:
        from projtrans.prompt import prompt

        prompt(opened, n_best, quiet)
        return
    run, translator = opened(None, None)
    from projtrans import filtering

    filter = filtering.Filter(translator, n_best, format, on_error)
    if text:
        filtering.filter_texts(filter, text, output, quiet)
    else:
        filtering.filter_lines(filter, run, input, output, buffer=buffer, resume=resume, quiet=quiet)


@app.command()
def export(
    run: o.Run = None,
    format: o.GraphFormat = "onnx",
    precision: o.Precisions = None,
    quiet: o.Quiet = False,
    threads: o.Threads = None,
) -> None:
    """Write a run's model as graphs for ONNX Runtime, with which `translate` starts without torch.

    Needs projtrans[fast]; `train` does it by itself at its end where that is installed.

    Example: projtrans export runs/latest --precision float32 --precision int8
    """
    from projtrans import device as devices
    from projtrans import export as exporting
    from projtrans.run import open_run

    devices.use_threads(threads)
    for path in exporting.export(open_run(run), precision or ["float32"]):
        noting(quiet)(f"{path}: {path.stat().st_size / 1e6:,.1f} MB")


def _translator(run: "Run", device: str, threads: int | None, flags: SearchFlags) -> "Translator":
    from projtrans import device as devices
    from projtrans.translate import Translator

    devices.use_threads(threads)
    return _searching(Translator.of_run(run, devices.choose(device)), flags)


def _opener(
    model: Path | None,
    engine: "Engine",
    precision: str | None,
    asked: "Callable[[SentenceTranslator], SentenceTranslator]",
    **machine: Any,
) -> "Opener":
    """What opens the run of the command, or another one, as its flags ask."""
    from projtrans.engine import open_translator
    from projtrans.run import open_run

    def opened(folder: Path | None, other: Literal["torch"] | None) -> "tuple[Run, SentenceTranslator]":
        run = open_run(folder or model)
        kept = None if other and precision == "int8" else precision
        return run, asked(open_translator(run, other or engine, precision=kept, **machine))

    return opened


def _asked(
    translator: "SentenceTranslator", flags: SearchFlags, prefix: str | None, ways: dict[str, bool]
) -> "SentenceTranslator":
    """The translator with everything that flags ask of it; ways: its methods that take nothing."""
    translator = _searching(translator, flags)
    if prefix:
        translator = translator.with_prefix(prefix)
    for way in (way for way, wanted in ways.items() if wanted):
        translator = getattr(translator, way)()
    return translator


def _aligning(engine: str, precision: str | None, flag: str) -> Literal["torch"]:
    """The engine that aligns."""
    if engine == "onnx" or precision == "int8":
        raise ConfigError(f"{flag}: an export has no attention weights to read; leave --engine and --precision out")
    return "torch"


def _searching(translator: "AnyTranslator", flags: SearchFlags) -> "AnyTranslator":
    """The translator with the search settings that flags give; raises ConfigError with the name of a flag."""
    given = {name: value for name, value in flags.items() if value is not None}
    try:
        changed = translator.with_decoding(**given)
    except ConfigError as error:
        name, _, problem = str(error).partition(":")
        raise ConfigError(f"{_flag(name) if name in given else f'decoding.{name}'}:{problem}") from error
    sampling = changed.decoding.sample
    for name in ("beam_size", "length_penalty") if sampling else ("temperature", "top_k", "seed"):
        if name in given:
            remedy = "samples are not searched for; leave it out" if sampling else "only samples have it; add --sample"
            raise ConfigError(f"{_flag(name)} {given[name]}: {remedy}")
    return changed


def _flag(setting: str) -> str:
    return f"--{setting.replace('_', '-')}"
