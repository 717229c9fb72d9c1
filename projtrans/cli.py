"""The command line: parse, call, render. Every command is the function of its name in the file of its name.

Standard output carries data only, standard error everything else. Torch takes over a second to import, so commands
import what they call when they are called: `--help` never waits.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import typer
from typer.core import TyperGroup

from projtrans import __version__, config, files
from projtrans.errors import ConfigError, DataError, ProjtransError

if TYPE_CHECKING:
    from projtrans.corpus import CorpusConfig, Pair
    from projtrans.translate import Translation, Translator


class Commands(TyperGroup):
    """The commands, behind the one wall where errors become a line and an exit status."""

    def main(self, *args: Any, **kwargs: Any) -> NoReturn:  # noqa: D102
        try:
            status = super().main(*args, **{**kwargs, "standalone_mode": False})
        except ProjtransError as error:
            status = _fail(str(error), error.exit_status)
        except typer.TyperException as error:
            status = _fail(getattr(error, "format_message", lambda: str(error))(), 2)
        except KeyboardInterrupt:
            status = _fail("interrupted", 130)
        except BrokenPipeError:  # the reader has left; so do we, and so does whatever Python would still flush
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            status = 0
        except OSError as error:
            status = _fail(f"{error.filename or 'writing'}: {error.strerror or error}", 1)
        raise SystemExit(status if isinstance(status, int) else 0)


app = typer.Typer(
    cls=Commands,
    rich_markup_mode=None,
    invoke_without_command=True,
    pretty_exceptions_enable=False,
    help="Train and run encoder-decoder Transformers for translation, with standard or projection attention.",
)


def main() -> None:
    """Run the command line."""
    _tune_allocator()
    app()


def _fail(message: str, status: int) -> int:
    from projtrans import console

    console.error(message)
    return status


def _version(value: bool) -> None:
    if value:
        typer.echo(f"projtrans {__version__}")
        raise typer.Exit()


@app.callback()
def root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:  # noqa: D103
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), err=True)
        raise typer.Exit(2)


# ---------------------------------------------------------------------------------------------------------- options

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but data and errors.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Processor threads (default: all cores).")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Sides = Annotated[tuple[Path, Path] | None, typer.Option(metavar="SRC TGT")]
BeamSize = Annotated[int | None, typer.Option(min=1, help="Hypotheses kept a step; 1 is greedy [default: the run's, 5 unless set].")]
LengthPenalty = Annotated[
    float | None,
    typer.Option(min=0, help="α of the length penalty ((5 + length) / 6)^α (GNMT) [default: the run's, 1.0 unless set]."),
]
RunFolder = Annotated[Path | None, typer.Argument(metavar="[RUN]", help="A run folder [default: runs/latest].", show_default=False)]
SetOption = Annotated[list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Change one setting; repeatable.")]


# ---------------------------------------------------------------------------------------------------------- prepare


@app.command()
def prepare(
    corpus: Annotated[str | None, typer.Argument(help="phrasebook (bundled), tatoeba-spa-eng, or a .tsv or .tsv.gz file [default: phrasebook].", show_default=False)] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="DIR", help="Folder to write [default: data/NAME].")] = None,
    train_files: Annotated[tuple[Path, Path] | None, typer.Option("--train", metavar="SRC TGT", help="Ready-made training split, two files (.gz too).")] = None,
    valid_files: Annotated[tuple[Path, Path] | None, typer.Option("--valid", metavar="SRC TGT", help="Ready-made validation split.")] = None,
    test_files: Annotated[tuple[Path, Path] | None, typer.Option("--test", metavar="SRC TGT", help="Ready-made test split.")] = None,
    archive: Annotated[Path | None, typer.Option(metavar="FILE", help="A local copy of the Tatoeba archive, instead of downloading it (or set PROJTRANS_TATOEBA).")] = None,
    config_name: Annotated[str | None, typer.Option("--config", metavar="FILE|NAME", help="Take the corpus section of a configuration.")] = None,
    direction: Annotated[str | None, typer.Option(help="forward, backward, en-es or es-en.")] = None,
    split: Annotated[str | None, typer.Option(help="grouped (nothing leaks) or random (the paper's).")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the split.")] = None,
    tokenizer: Annotated[str | None, typer.Option(help="bpe, unigram or word.")] = None,
    vocab_size: Annotated[int | None, typer.Option(help="Pieces, special ones included.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Prepare anew over what is there.")] = False,
    quiet: Quiet = False,
) -> None:  # fmt: skip
    """Make training data of a corpus: read it strictly, split it, train its tokenizer.

    Example: projtrans prepare tatoeba-spa-eng
    """
    from projtrans import console
    from projtrans import prepare as commands

    given = {"name": corpus, "direction": direction, "split": split, "seed": seed, "tokenizer": tokenizer, "vocab_size": vocab_size}
    wanted = _corpus_config(config_name, {key: value for key, value in given.items() if value is not None})
    ready_made = _ready_made({"train": train_files, "valid": valid_files, "test": test_files}, corpus)
    wanted = commands.named(wanted, ready_made)
    folder = output or commands.default_folder(wanted)
    with console.PrepareDisplay(quiet) as display:
        manifest = commands.prepare(wanted, folder, archive=archive, files=ready_made, force=force, report=display)
    console.prepared(folder, manifest, quiet)


def _corpus_config(config_name: str | None, given: dict[str, Any]) -> "CorpusConfig":
    """The corpus section of a configuration, or of the one shipped for the corpus, with flags on top."""
    from projtrans.corpus import CorpusConfig

    raw = config.read_yaml(config.find(config_name or _shipped_for(given.get("name", "phrasebook")))) if config_name or _shipped_for(given.get("name", "phrasebook")) else {}
    section = raw.get("corpus") or {}
    if isinstance(section, dict):
        section = section | given
    return config.build(CorpusConfig, section, "corpus")


def _shipped_for(corpus: str) -> str | None:
    """The shipped configuration that is made for a corpus."""
    return {"phrasebook": "phrasebook", "tatoeba-spa-eng": "tatoeba"}.get(corpus)


def _ready_made(sides: dict[str, tuple[Path, Path] | None], corpus: str | None) -> dict[str, tuple[Path, Path]] | None:
    given = {name: files for name, files in sides.items() if files is not None}
    if not given:
        return None
    missing = [f"--{name}" for name in sides if name not in given]
    if missing:
        raise ConfigError(f"prepare: ready-made splits need --train, --valid and --test; {', '.join(missing)} missing")
    if corpus is not None:
        raise ConfigError(f"prepare: {corpus} and ready-made splits exclude each other; leave one of them out")
    return given


# ------------------------------------------------------------------------------------------------------------ train


@app.command()
def train(
    config_name: Annotated[str | None, typer.Option("--config", metavar="FILE|NAME", help="A YAML file, or a shipped configuration [default: phrasebook].")] = None,
    data: Annotated[Path | None, typer.Option(metavar="DIR", help="A prepared folder [default: data/NAME, prepared if it is not there].")] = None,
    run_folder: Annotated[Path | None, typer.Option("--run", metavar="DIR", help="The run folder [default: runs/CONFIG-KIND].")] = None,
    attention: Annotated[str | None, typer.Option(help="standard or projection.")] = None,
    sigma_self: Annotated[float | None, typer.Option(help="Initial σ of self-attention (projection).")] = None,
    sigma_cross: Annotated[float | None, typer.Option(help="Initial σ of cross-attention (projection).")] = None,
    sets: SetOption = None,
    seed: Annotated[int | None, typer.Option(help="Seed of weights, data order and dropout.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a run [default: runs/latest].")] = False,
    device: Device = "auto",
    threads: Threads = None,
    quiet: Quiet = False,
) -> None:  # fmt: skip
    """Train a model into a run folder; with --resume, go on where a run was stopped.

    Example: projtrans train --attention projection
    """
    flags = {"training.seed": seed, "model.attention.sigma.self": sigma_self, "model.attention.sigma.cross": sigma_cross}
    overrides = [(path, value) for path, value in flags.items() if value is not None]
    from projtrans import console
    from projtrans import device as devices
    from projtrans import train as commands
    from projtrans.prepare import load_tokenizer, read_split

    _set_threads(threads)
    target = devices.choose(device)
    settings, run, folder = (
        _resumed(config_name, attention, run_folder, data, sets or [], overrides)
        if resume
        else _new_run(config_name, attention, run_folder, data, sets or [], overrides, quiet)
    )
    splits = {name: read_split(folder, name) for name in ("train", "valid", "test")}
    tokenizer = load_tokenizer(folder)
    if not resume:
        run.create(config.dump(settings), tokenizer)
    with _StopSignals() as stop_signal, console.TrainingDisplay(quiet) as display:
        commands.train(
            settings, run, tokenizer, splits, device=target, resume=resume, report=display, stop_signal=stop_signal
        )


def _new_run(
    config_name: str | None, attention: str | None, run_folder: Path | None, data: Path | None, sets: list[str],
    overrides: list[tuple[str, Any]], quiet: bool,
) -> tuple[Any, Any, Path]:  # fmt: skip
    """The configuration, run folder and data folder of a run that begins."""
    from projtrans.prepare import default_folder, load_manifest
    from projtrans.run import Run, free_folder
    from projtrans.settings import resolve

    manifest = None if data is None else load_manifest(data)
    name = config_name or (_shipped_for(manifest.corpus) if manifest else "phrasebook")
    raw = config.read_yaml(config.find(name)) if name else {}
    if manifest and config_name is None:  # the data say what they are
        raw["corpus"] = config.dump(manifest.config)
    settings = resolve(raw, attention=attention, sets=sets, flags=overrides)
    stem = Path(name).stem if name else (manifest.config.folder_name if manifest else "run")
    kind = settings.model.attention.kind
    run = Run(run_folder or free_folder(stem if stem.endswith(f"-{kind}") else f"{stem}-{kind}"))
    if run.config_file.exists():
        raise ConfigError(f"run {run.folder}: holds a run already; use --resume, or another --run DIR")
    folder = data or default_folder(settings.corpus)
    _ready(settings.corpus, folder, data is not None, config_name, quiet)
    return settings, run, folder


def _ready(corpus: "CorpusConfig", folder: Path, named: bool, config_name: str | None, quiet: bool) -> None:
    """Make sure that the folder holds the corpus as configured: prepare it where there is nothing."""
    from projtrans import console
    from projtrans import prepare as commands

    if not named and not (folder / commands.MANIFEST).exists():
        console.note(f"preparing {corpus.name} in {folder}", quiet)
        with console.PrepareDisplay(quiet) as display:
            commands.prepare(corpus, folder, report=display)
        return
    different = commands.differences(commands.load_manifest(folder), corpus)
    if different:
        again = f"projtrans prepare --config {config_name}" if config_name else f"projtrans prepare {corpus.name}"
        raise ConfigError(f"{folder}: {'; '.join(different)}; prepare it anew: {again} -o DIR, then train with --data DIR")


def _resumed(
    config_name: str | None, attention: str | None, run_folder: Path | None, data: Path | None, sets: list[str],
    overrides: list[tuple[str, Any]],
) -> tuple[Any, Any, Path]:  # fmt: skip
    """The configuration, run folder and data folder of a run that goes on."""
    from projtrans.prepare import default_folder
    from projtrans.run import open_run
    from projtrans.settings import resumed

    if config_name is not None:
        raise ConfigError(f"--config {config_name}: a resumed run keeps its configuration; leave --config out")
    if attention is not None:
        overrides = [*overrides, ("model.attention.kind", attention)]
    run = open_run(run_folder)
    settings = resumed(run, sets=sets, flags=overrides)
    return settings, run, data or default_folder(settings.corpus)


class _StopSignals:
    """The first SIGINT or SIGTERM is remembered, so that training can save its state; the second one stops at once."""

    def __init__(self) -> None:
        self.number: int | None = None
        self.before: dict[int, Any] = {}

    def __enter__(self) -> "_StopSignals":
        for number in (signal.SIGINT, signal.SIGTERM):
            self.before[number] = signal.signal(number, self._remember)
        return self

    def __exit__(self, *unused: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def __call__(self) -> int | None:
        return self.number

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if self.number is not None:
            os._exit(128 + number)
        self.number = number


# --------------------------------------------------------------------------------------------------------- evaluate


@app.command()
def evaluate(
    run: RunFolder = None,
    data: Annotated[Path | None, typer.Option(metavar="DIR", help="A prepared folder [default: the run's].")] = None,
    split: Annotated[str, typer.Option(help="test or valid.")] = "test",
    source: Annotated[Path | None, typer.Option(metavar="FILE", help="Own sentences, one a line, instead of a split.")] = None,
    reference: Annotated[Path | None, typer.Option(metavar="FILE", help="Their translations, line by line.")] = None,
    beam_size: BeamSize = None,
    length_penalty: LengthPenalty = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output instead of the table.")] = False,
    hypotheses: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the translations, one a line.")] = None,
    output: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the JSON object.")] = None,
    device: Device = "auto",
    threads: Threads = None,
    quiet: Quiet = False,
) -> None:  # fmt: skip
    """Score a run: loss, accuracy, BLEU and chrF.

    Example: projtrans evaluate --json
    """
    from projtrans import console
    from projtrans import evaluate as commands
    from projtrans.run import open_run

    _set_threads(threads)
    opened = open_run(run)
    pairs = _pairs_to_score(opened, data, split, source, reference)
    translator = _translator(opened.folder, device, beam_size, length_penalty)
    name = str(source) if source else split
    with console.Bar("translating", quiet) as bar:
        result, translations = commands.evaluate(translator, pairs, run=str(run or opened.folder), split=name, report=bar)
    if hypotheses:
        files.write_lines(hypotheses, translations)
    if output:
        files.write_json(output, result.to_json())
    if json:
        _print_json(result.to_json())
    else:
        console.print_scores(result)


def _pairs_to_score(
    run: Any, data: Path | None, split: str, source: Path | None, reference: Path | None
) -> "list[Pair]":
    """The pairs of a split, or of two files."""
    from projtrans.corpus import CorpusConfig, read_sides
    from projtrans.prepare import default_folder, load_tokenizer, read_split

    if (source is None) != (reference is None):
        raise ConfigError("evaluate: --source and --reference belong together; give both")
    if source is not None and reference is not None:
        pairs = read_sides(source, reference).pairs
        if not pairs:
            raise DataError(f"{source}: no sentence pair in it")
        return pairs
    if split not in ("test", "valid"):
        raise ConfigError(f"--split {split}: expected test or valid")
    folder = data or default_folder(run.section("corpus", CorpusConfig))
    if load_tokenizer(folder).checksum != run.tokenizer().checksum:
        raise DataError(f"{folder}: not the data that {run.folder} was trained on (another tokenizer); name them with --data")
    return read_split(folder, split)


# -------------------------------------------------------------------------------------------------------- translate


@app.command()
def translate(
    text: Annotated[list[str] | None, typer.Argument(metavar="[TEXT ...]", help="Sentences to translate, one each.", show_default=False)] = None,
    model: Annotated[Path | None, typer.Option(metavar="RUN", help="A run folder [default: runs/latest].")] = None,
    input: Annotated[Path | None, typer.Option(metavar="FILE|-", help="Translate a file line by line; - is standard input.")] = None,
    output: Annotated[Path | None, typer.Option(metavar="FILE|-", help="Write to a file; - is standard output.")] = None,
    beam_size: BeamSize = None,
    length_penalty: LengthPenalty = None,
    n_best: Annotated[int, typer.Option(min=1, help="Translations a sentence; above 1 with tsv or json.")] = 1,
    format: Annotated[Literal["text", "tsv", "json"], typer.Option(help="text: a translation a line; tsv: score and translation; json: an object a line.")] = "text",
    interactive: Annotated[bool, typer.Option("--interactive", help="Prompt for sentences, with history.")] = False,
    device: Device = "auto",
    threads: Threads = None,
    quiet: Quiet = False,
) -> None:  # fmt: skip
    """Translate: arguments, a stream, a file, or at a prompt.

    With TEXT, one translation a line. Without TEXT and with input from a pipe or --input, one output line for every
    input line, in order, blank lines kept. Without TEXT on a terminal, an interactive prompt.

    Example: printf 'Hello.\\n' | projtrans translate
    """
    if text and (input or interactive):
        raise ConfigError("translate: TEXT excludes --input and --interactive; leave one of them out")
    if n_best > 1 and format == "text":
        raise ConfigError(f"--n-best {n_best}: a line of text holds one translation; add --format tsv or json")
    _set_threads(threads)
    prompted = interactive or (not text and input is None and sys.stdin.isatty())
    lines = None if text or prompted else _lines(input)
    translator = _translator(model, device, beam_size, length_penalty)
    if prompted:
        from projtrans.prompt import prompt

        prompt(translator, n_best, quiet)
        return
    if text:
        translations: Iterable[Translation] = translator.translate(text, n_best=n_best)
    else:
        translations = translator.stream(lines or [], n_best=n_best)
    _write(_rendered(translations, format, quiet), output)


def _lines(path: Path | None) -> Iterable[str]:
    """The lines to translate: of a file, checked as a whole, or of standard input as they come."""
    if path is not None and str(path) != "-":
        return files.read_lines(path)
    return _standard_input()


def _standard_input() -> Iterator[str]:
    for number, line in enumerate(sys.stdin.buffer, 1):
        yield from files.decode_lines(line, f"standard input (line {number})") or [""]


def _rendered(translations: "Iterable[Translation]", format: str, quiet: bool) -> Iterator[str]:
    """The output lines, with a warning for every source that was too long to be translated whole."""
    import json

    from projtrans import console

    for number, translation in enumerate(translations, 1):
        if translation.cut:
            console.note(f"warning: line {number} is longer than the model's maximum; its end was left out", quiet)
        if format == "text":
            yield translation.text
        elif format == "tsv":
            yield from (f"{h.score:.6f}\t{h.translation}" for h in translation.hypotheses)
        else:
            yield json.dumps(_record(translation), ensure_ascii=False)


def _record(translation: "Translation") -> dict[str, Any]:
    hypotheses = [{"translation": h.translation, "score": h.score} for h in translation.hypotheses]
    return {
        "source": translation.source,
        "translation": translation.text,
        "score": translation.score,
        "hypotheses": hypotheses,
    }


def _write(lines: Iterator[str], output: Path | None) -> None:
    if output is not None and str(output) != "-":
        files.write_lines(output, lines)
        return
    for line in lines:
        sys.stdout.buffer.write(line.encode("utf-8", "replace") + b"\n")
        sys.stdout.buffer.flush()


# ------------------------------------------------------------------------------------------------------- the machine


def _translator(
    folder: Path | None, device: str, beam_size: int | None, length_penalty: float | None
) -> "Translator":
    from projtrans.translate import Translator

    return Translator.load(folder, device).with_decoding(beam_size, length_penalty)


def _print_json(value: Any) -> None:
    import json

    typer.echo(json.dumps(value, ensure_ascii=False, indent=2))


def _set_threads(threads: int | None) -> None:
    import torch

    if threads:
        torch.set_num_threads(threads)


def _tune_allocator() -> None:
    """Keep freed memory instead of giving it back to the system at every step (glibc only; docs/benchmarks.md).

    Without it a training step spends a fifth of its time on page faults. Has to happen before torch is imported.
    """
    M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(M_MMAP_MAX, 0)
    mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
    mallopt(M_TOP_PAD, 64 * 2**20)
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # torch: huge pages for large tensors
