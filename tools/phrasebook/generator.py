"""Generates the bundled corpus: everyday English sentences and their Spanish translations.

`lexicon.yaml` lists the words and which of them go together, `frames.yaml` the sentence templates; `lexicon` and
`inflection` give a word its form in a sentence.  This file fills every frame with words, evenly and deterministically:
the choice depends only on BLAKE2 of the text, so the corpus is the same on every machine.  It knows nothing of models,
tokenizers or splits.

One policy per construct, so that a small model can learn it:

* I, we, they and you have no Spanish subject pronoun; he and she are always él and ella; it has none.
* "you" is tú, usted and ustedes (never vosotros).  Each is a correct target, so all of them are given, also for "your"
  and for commands.  A speaker or hearer whose gender Spanish must show is given in both genders.
* "Let's" is "vamos a", "going to" is "ir a", the perfect is haber, the English past is the preterite and "used to" the
  imperfect, "will" is the future tense; can is poder, must is deber, have to is tener que.
* Object pronouns stand before a conjugated verb and are attached to an infinitive, gerund or affirmative command.
* A person as object takes the personal a; an indirect object that is named is doubled by le.
* The vocabulary is Latin American where it differs from Spain's (jugo, boleto, computadora).

The group of a phrase names the two content words that it combines.  No phrase of another group contains both of them,
so a split by group holds out combinations of words that training has only seen apart.
"""

import hashlib
import itertools
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping

from projtrans.data.phrasebook import Phrase
from tools.phrasebook import inflection
from tools.phrasebook.frames import Field, Frame, load_frames
from tools.phrasebook.lexicon import NEUTRAL, Adjective, Lexicon, Reading, Verb, Word, load_lexicon

_HELD_OUT = "Let me go alone."  # the README's example of generalisation: its kin are in the corpus, it is not

_ROUNDS = 60  # how often a frame goes through its words before it counts as exhausted


# --- from frame to sentence -------------------------------------------------------------------------------------------

Filling = Mapping[str, Word]

_CONSTANTS: Filling = {"solo": Adjective("alone", "solo")}  # words in templates that are inflected but are not verbs


def _sentence(text: str) -> str:
    """Spacing, al and del, and a capital at the start of every sentence."""
    text = inflection.contract(" ".join(text.split()))
    text = re.sub(r" ([.,?!])", r"\1", text)
    return re.sub(r"(^|[.?!] )([¿¡]?)(\w)", lambda m: m[1] + m[2] + m[3].upper(), text)


def _word(slot: str, words: Filling) -> Word:
    return words.get(slot) or _CONSTANTS.get(slot) or Verb(slot, slot)


def _english(frame: Frame, words: Filling) -> str:
    def render(part: str | Field) -> str:
        if isinstance(part, str):
            return part
        return _word(part.slot, words).in_english(part.form, words.get(part.other))

    return _sentence("".join(map(render, frame.english)))


def _spanish(frame: Frame, words: Filling, readings: Mapping[str, Reading]) -> str:
    def clitic(code: str) -> str:
        slot, _, form = code.partition(".")
        return words[slot].in_spanish(form, readings[slot], None, NEUTRAL, []) if form else code

    def render(part: str | Field) -> str:
        if isinstance(part, str):
            return part
        own, reading = readings.get(part.slot, NEUTRAL), readings.get(part.other, NEUTRAL)
        clitics = [clitic(code) for code in part.clitics]
        return _word(part.slot, words).in_spanish(part.form, own, words.get(part.other), reading, clitics)

    return _sentence("".join(map(render, frame.spanish)))


def _translations(frame: Frame, words: Filling) -> list[str]:
    """Every correct translation: one for each way to read "you", or a speaker's gender, that makes a difference."""
    combinations = itertools.product(*(word.readings for word in words.values()))
    texts = (_spanish(frame, words, dict(zip(words, readings, strict=True))) for readings in combinations)
    return list(dict.fromkeys(texts))


# --- choosing ---------------------------------------------------------------------------------------------------------


def _number(text: str) -> int:
    """A stable pseudo-random number."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def _key_fillings(frame: Frame, lexicon: Lexicon) -> list[dict[str, Word]]:
    """All fillings of the frame's key slots."""
    tables: list[list[dict[str, Word]]] = []
    for names, source in frame.slots:
        if len(names) == 2:
            tables.append([dict(zip(names, pair, strict=True)) for pair in lexicon.pairs(source)])
        elif names[0] in frame.key:
            tables.append([{names[0]: word} for word in lexicon.words(source)])
    joined = ({slot: word for part in parts for slot, word in part.items()} for parts in itertools.product(*tables))
    return [filling for filling in joined if len({word.english for word in filling.values()}) == len(filling)]


def _in_turns(frame: Frame, fillings: list[dict[str, Word]]) -> Iterator[dict[str, Word]]:
    """The fillings in a pseudo-random order in which the first key words take turns: eat, drink, ..., eat, drink"""
    turns: dict[str, list[dict[str, Word]]] = defaultdict(list)
    for filling in sorted(fillings, key=lambda filling: _number(frame.name + _label(filling))):
        turns[next(iter(filling.values())).english if filling else ""].append(filling)
    for at in range(_ROUNDS):
        for row in turns.values():
            yield row[at % len(row)]


def _label(filling: Filling) -> str:
    return "+".join(word.english for word in filling.values())


def _fillings(frame: Frame, lexicon: Lexicon) -> Iterator[dict[str, Word]]:
    """The frame's slots filled, again and again, with other words for the slots outside the key."""
    key_fillings = _key_fillings(frame, lexicon)
    others = [
        (names[0], lexicon.words(source))
        for names, source in frame.slots
        if len(names) == 1 and names[0] not in frame.key
    ]
    for turn, chosen in enumerate(_in_turns(frame, key_fillings)):
        number = _number(f"{frame.name} {turn} {_label(chosen)}")
        filling = dict(chosen)
        for slot, words in others:
            number, at = divmod(number, len(words))
            filling[slot] = words[at]
        yield filling


def _fill(frame: Frame, lexicon: Lexicon) -> Iterator[Phrase]:
    """The frame's phrases, as many as its quota."""
    seen: set[str] = set()
    count = 0
    for words in _fillings(frame, lexicon):
        source = _english(frame, words)
        if source in seen or source == _HELD_OUT:
            continue
        seen.add(source)
        group = "+".join(sorted(lexicon.lemma(words[slot].english if slot in words else slot) for slot in frame.key))
        for target in _translations(frame, words):
            yield Phrase(source, target, group or source)
            count += 1
        if count >= frame.pairs:
            return


def _by_frame(lexicon: Lexicon) -> Iterator[tuple[str, Phrase]]:
    """Every frame's phrases; a source that two frames make belongs to the first."""
    owner: dict[str, str] = {}
    for frame in load_frames():
        for phrase in _fill(frame, lexicon):
            if owner.setdefault(phrase.source, frame.name) == frame.name:
                yield frame.name, phrase


def _without_leaks(named: list[tuple[str, Phrase]], lexicon: Lexicon) -> Iterator[tuple[str, Phrase]]:
    """Leave out what contains two words that are the key of another group."""
    keys = {phrase.group for _, phrase in named if phrase.group != phrase.source}
    for name, phrase in named:
        pairs = {"+".join(pair) for pair in itertools.combinations(sorted(lexicon.lemmas(phrase.source)), 2)}
        if not (pairs & keys) - {phrase.group}:
            yield name, phrase


def generate_by_frame() -> list[tuple[str, Phrase]]:
    """The corpus in its order, with the name of the frame that made each phrase."""
    lexicon = load_lexicon()
    kept = _without_leaks(list(_by_frame(lexicon)), lexicon)
    return sorted(kept, key=lambda row: (_number(row[1].source), _number(row[1].target)))


def generate() -> list[Phrase]:
    """About twenty thousand pairs, always the same ones in the same order."""
    return [phrase for _, phrase in generate_by_frame()]
