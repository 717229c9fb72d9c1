"""What `translate` writes of a translation: one table of formats, from which the command line takes their names.

No format lets a line hold what some readers take for its end. Light: imported for every `--help`.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from projtrans.inference.translation import Candidate, Translation

_LINE_ENDS = re.compile("[\x7f-\x9f\u2028\u2029]")  # which JSON leaves unescaped


@dataclass(frozen=True)
class OutputFormat:
    """One way to write translations."""

    lines: "Callable[[Translation], Iterable[str]]"  # of one translation, without line feeds
    help: str
    detailed: bool = True  # holds scores, every hypothesis and what options add; otherwise the best translation alone


def _text_lines(translation: "Translation") -> Iterator[str]:
    yield translation.text


def _tsv_lines(translation: "Translation") -> Iterator[str]:
    """Score and translation; then tokens, their scores and alignment where present, each a list between spaces."""
    for hypothesis in translation.hypotheses:
        columns = [f"{hypothesis.score:.6f}", hypothesis.translation]
        if hypothesis.pieces is not None and hypothesis.token_scores is not None:
            columns += [" ".join(hypothesis.pieces), " ".join(f"{score:.6f}" for score in hypothesis.token_scores)]
        if hypothesis.alignment is not None:
            columns.append(" ".join(f"{i}-{j}" for i, j in hypothesis.alignment))
        yield "\t".join(columns)


def _json_lines(translation: "Translation") -> Iterator[str]:
    """Source, translation, score, all hypotheses, and the parts of a line that was translated in several."""
    found: dict[str, Any] = {"source": translation.source, "translation": translation.text, "score": translation.score}
    if translation.best.alignment is not None:
        found["alignment"] = translation.best.alignment
    found["hypotheses"] = [_fields(hypothesis) for hypothesis in translation.hypotheses]
    if translation.parts:
        found["parts"] = [{"source": part.source, **_fields(part.best)} for part in translation.parts]
    if translation.problem is not None:
        found["problem"] = translation.problem
    text = json.dumps(found, ensure_ascii=False)
    yield _LINE_ENDS.sub(lambda end: f"\\u{ord(end[0]):04x}", text)


def _fields(hypothesis: "Candidate") -> dict[str, Any]:
    found = {"translation": hypothesis.translation, "score": hypothesis.score, "pieces": hypothesis.pieces}
    found |= {"token_scores": hypothesis.token_scores, "alignment": hypothesis.alignment}
    return {name: value for name, value in found.items() if value is not None}


FORMATS = {
    "text": OutputFormat(_text_lines, "one translation per line", detailed=False),
    "tsv": OutputFormat(_tsv_lines, "score and translation"),
    "json": OutputFormat(_json_lines, "one object per line"),
}
