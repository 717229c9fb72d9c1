"""The interactive prompt: a sentence in, its translation out, with line editing, history and commands.

Translations go to standard output, everything else to standard error, so that pipes carry data only.
"""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from projtrans.cli import console
from projtrans.cli.heatmap import heatmap
from projtrans.errors import ConfigError, RunError
from projtrans.inference.translation import Translation
from projtrans.inference.translator import SentenceTranslator
from projtrans.runs.run_folder import Run
from projtrans.search.decoding import DecodingConfig

if TYPE_CHECKING:
    from torch import Tensor

    from projtrans.inference.torch_translator import Translator


HISTORY_LINES = 1000
ALTERNATIVES = 5
MOST = 100
"""The largest beam and number of hypotheses: more would take too long."""

Opener = Callable[[Path | None, Literal["torch"] | None], tuple[Run, SentenceTranslator]]
"""Opens a run folder (None: the command's) with its translator, on an engine (None: the command's)."""

HELP = """\
:alternatives [N]   show N translations with their scores; again: only the best
:attention [L[.H]]  what each token of the last translation attended to, in
                    layer L, or in its head H; all: in every layer
:beam N             search with N hypotheses
:model [RUN]        describe the model, or load another one
:help               this list
:quit               leave (Ctrl-D does too)
A line that begins with :: is translated without its first colon.
"""


def prompt(opened: Opener, quiet: bool) -> None:
    """Read sentences and commands until the end of the input (Ctrl-D) or `:quit`, and print translations.

    Ctrl-C discards the line. Blank lines are ignored. A command that fails says why in one line.
    """
    session = Session(opened)
    console.note("A sentence and Enter translates; :help lists commands, Ctrl-D or :quit leaves.", quiet)
    with _history():
        for line in _typed():
            try:
                session.answer(line)
            except KeyboardInterrupt:
                console.note("interrupted")


class Session:
    """The state of the prompt between lines."""

    def __init__(self, opened: Opener) -> None:
        self.opened = opened
        self.lines = 0  # translated
        self.beam_size: int | None = None  # as typed
        self.run, self.translator = opened(None, None)
        self.inside: SentenceTranslator | None = None  # the same model in torch, if an export translates
        self.last: Translation | None = None
        self.commands: dict[str, Callable[[str], None]] = {
            ":alternatives": self.set_alternatives,
            ":attention": self.show_attention,
            ":beam": self.set_beam,
            ":help": lambda value: console.lines(HELP.splitlines()),
            ":model": self.show_model,
        }

    def answer(self, line: str) -> None:
        """Translate a line, or run the command in it."""
        if not line.startswith(":") or line.startswith("::"):
            self.translate(line.removeprefix(":"))
            return
        name, _, value = line.strip().partition(" ")
        command = self.commands.get(name)
        if command is None:
            console.note(f"{name}: no such command; :help lists them, and ::{line[1:20]} translates it")
            return
        try:
            command(value.strip())
        except (ConfigError, RunError) as error:
            console.note(f"{name}: {error}")

    def translate(self, text: str) -> None:
        """Print the translation of a line, or the best ones with their scores."""
        if not text.strip():
            return
        self.lines += 1
        self.last = self.translator.translate([text], numbers=[self.lines])[0]
        for hypothesis in self.last.hypotheses:
            score = f"{hypothesis.score:8.3f}  " if self.n_best > 1 else ""
            print(f"{score}{hypothesis.translation}", flush=True)

    @property
    def n_best(self) -> int:
        """Translations per sentence."""
        return self.translator.options.n_best

    def set_beam(self, value: str) -> None:
        """`:beam N`."""
        self.beam_size = _number(value)
        self.translator = self.translator.with_decoding(beam_size=self.beam_size)
        console.note(f"beam size {self.beam_size}")

    def set_alternatives(self, value: str) -> None:
        """`:alternatives [N]`."""
        n_best = _number(value) if value else 1 if self.n_best > 1 else ALTERNATIVES
        self.translator = self.translator.with_options(n_best=n_best)
        console.note(f"{n_best} translations per sentence" if n_best > 1 else "one translation per sentence")

    def show_model(self, value: str) -> None:
        """`:model [RUN]`."""
        if value:
            run, translator = self.opened(Path(value).expanduser(), None)
            translator = translator.with_options(n_best=self.n_best)
            if self.beam_size is not None:
                translator = translator.with_decoding(beam_size=self.beam_size)
            self.run, self.translator, self.last, self.inside = run, translator, None, None
        console.lines(_described(self.run, self._with_torch(), self.translator.decoding))

    def show_attention(self, value: str) -> None:
        """`:attention [L[.H]]`, `:attention all`."""
        if self.last is None:
            raise ConfigError("nothing has been translated yet; type a sentence first")
        tokenizer = self.translator.tokenizer
        for part in self.last.parts or [self.last]:
            tokens, columns = part.best.tokens, tokenizer.encode_source([part.source])[0]
            if not tokens or not columns:
                continue
            (weights_LHTS,) = self._with_torch().cross_attention([part.source], [tokens])
            rows = tokenizer.target_tokens(tokens)
            width, blocks = console.message_columns(), console.shows_blocks()
            for title, weights_TS in _chosen(weights_LHTS, value):
                shown = tokenizer.source_tokens(columns)[: weights_TS.shape[1]]
                lines = heatmap(weights_TS.tolist(), rows, shown, width=width, blocks=blocks)
                console.lines([title, *lines])

    def _with_torch(self) -> "Translator":
        """The model in torch: an export does not expose its attention weights."""
        from projtrans.inference.torch_translator import Translator

        if isinstance(self.translator, Translator):
            return self.translator
        if self.inside is None:
            _, self.inside = self.opened(self.run.folder, "torch")
        assert isinstance(self.inside, Translator)
        return self.inside


def _number(value: str) -> int:
    return _between(value, MOST, f"{value!r}: expected a whole number from 1 to {MOST}")


def _between(value: str, most: int, message: str) -> int:
    if not (value.isascii() and value.isdigit() and len(value) < 10 and 1 <= int(value) <= most):
        raise ConfigError(message)
    return int(value)


def _chosen(weights_LHTS: "Tensor", value: str) -> Iterator[tuple[str, "Tensor"]]:
    """The maps that `:attention VALUE` asks for, [target tokens, source tokens], with their titles."""
    from projtrans.model.alignment import read_layer

    layers, heads = weights_LHTS.shape[:2]
    chosen: list[tuple[int, int | None]]
    if value == "all":
        chosen = [(layer, None) for layer in range(layers)]
    elif value:
        first, dot, second = value.partition(".")
        chosen = [(_place(first, "layer", layers), _place(second, "head", heads) if dot else None)]
    else:
        chosen = [(read_layer(layers), None)]
    for layer, head in chosen:
        which = f"mean of {heads} heads" if head is None else f"head {head + 1} of {heads}"
        weights_HTS = weights_LHTS[layer]
        yield f"layer {layer + 1} of {layers}, {which}", weights_HTS.mean(0) if head is None else weights_HTS[head]


def _place(value: str, name: str, count: int) -> int:
    return _between(value, count, f"{name} {value!r}: expected 1 to {count}, or 'all' for every layer") - 1


def _described(run: Run, translator: "Translator", decoding: DecodingConfig) -> list[str]:
    """The facts about the model, one per line."""
    from projtrans.model.multihead import sigmas

    model = translator.model
    layers, kind = model.config.layers, model.config.attention.kind
    parameters = sum(weights.numel() for weights in model.parameters())
    facts = [
        ("run", str(run.folder)),
        ("attention", f"{kind}, {model.config.heads} heads"),
        ("layers", f"{layers.encoder} + {layers.decoder}, width {model.config.width}"),
        ("parameters", f"{parameters:,}"),
        ("vocabulary", f"{translator.tokenizer.target_size:,} tokens, at most {translator.longest_source} per source"),
        ("search", f"beam {decoding.beam_size}, length penalty {decoding.length_penalty:g}"),
    ]
    facts += [(f"σ {name}", " ".join(f"{value:.4g}" for value in values)) for name, values in sigmas(model).items()]
    wide = max(len(name) for name, _ in facts)
    return [f"{name:{wide}}  {value}" for name, value in facts]


def _typed() -> Iterator[str]:
    beside = None if sys.stdin.isatty() and sys.stdout.isatty() else sys.stderr  # never mixed into the data
    while True:
        try:
            if beside:
                print("> ", end="", file=beside, flush=True)
            line = input("" if beside else "> ")
        except KeyboardInterrupt:
            print(file=beside)
            continue
        except EOFError:
            print(file=beside)
            return
        if line.strip() in (":quit", ":q"):
            return
        yield line


@contextlib.contextmanager
def _history() -> Iterator[None]:
    """Line editing with the history of earlier sessions, if readline is available and the file usable."""
    try:
        import readline
    except ImportError:  # Windows
        yield
        return
    state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    file = state / "projtrans" / "history"
    with contextlib.suppress(OSError):
        readline.read_history_file(file)
    readline.set_history_length(HISTORY_LINES)
    yield
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        readline.write_history_file(file)
