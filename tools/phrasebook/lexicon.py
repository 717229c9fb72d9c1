"""The words of the bundled phrasebook: what each kind of word looks like in a sentence, and which go together.

A word fills a slot of a frame and renders itself, in English and in Spanish, in the form that the frame asks for.
`Lexicon` reads `lexicon.yaml`.  It knows nothing of frames and sentences.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from tools.phrasebook import inflection
from tools.phrasebook.inflection import Gender, Person

# --- words ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Reading:
    """What Spanish must know of a noun phrase to agree with it."""

    person: Person
    gender: Gender

    @property
    def is_plural(self) -> bool:
        return self.person.endswith("p")


NEUTRAL = Reading("3s", "m")

_AUXILIARIES = {  # for I, for one, for several
    "be": ("am", "is", "are"),
    "was": ("was", "was", "were"),
    "do": ("do", "does", "do"),
    "has": ("have", "has", "have"),
}

_LONE = ("it", "that one", "all", "mine", "how many", "too many")  # what stands without its noun

_BEFORE = {"at": "en ", "to": "a "}

_POSSESSOR = {"1s": "my", "2s": "tu", "3s": "su", "1p": "our", "3p": "su"}


@dataclass(frozen=True, slots=True)
class Word:
    """What fills a slot.  A form that the kind of word does not know is an error in the frame."""

    english: str
    spanish: str

    @property
    def readings(self) -> tuple[Reading, ...]:
        return (NEUTRAL,)

    def in_english(self, form: str, other: Word | None) -> str:
        if form:
            raise KeyError(form)
        return self.english

    def in_spanish(self, form: str, own: Reading, other: Word | None, reading: Reading, clitics: list[str]) -> str:
        return inflection.plural(self.spanish) if form == "pl" else self.spanish

    @property
    def number(self) -> int:
        """Which auxiliary English takes: 0 with I, 1 with one, 2 with several."""
        return 1


@dataclass(frozen=True, slots=True)
class Adjective(Word):
    def in_english(self, form: str, other: Word | None) -> str:
        if form == "er":
            return inflection.comparative(self.english)
        if form == "a":
            return inflection.with_article(self.english)
        return self.english

    def in_spanish(self, form: str, own: Reading, other: Word | None, reading: Reading, clitics: list[str]) -> str:
        return inflection.agree(self.spanish, reading.gender, reading.is_plural)


@dataclass(frozen=True, slots=True)
class Noun(Word):
    gender: Gender
    is_plural: bool = False
    is_mass: bool = False  # has no plural; "a" adds nothing to it
    is_bare: bool = False  # languages and subjects: never with a determiner
    preposition: str = "at"

    @property
    def readings(self) -> tuple[Reading, ...]:
        return (Reading("3p" if self.is_plural else "3s", self.gender),)

    @property
    def number(self) -> int:
        return 2 if self.is_plural else 1

    def in_english(self, form: str, other: Word | None) -> str:
        """`the`, `a`, ... with the noun, and with the adjective `other` between them; or the auxiliary that agrees."""
        if form in _AUXILIARIES:
            return _AUXILIARIES[form][self.number]
        if form in ("it", "that one"):
            return {"it": ("it", "them"), "that one": ("that one", "those")}[form][self.is_plural]
        if form == "of":
            assert isinstance(other, Someone)
            return f"{other.possessive} {self.english}"
        phrase = f"{other.english} {self.english}" if isinstance(other, Adjective) else self.english
        if form == "at":
            return f"{self.preposition} the {phrase}"
        if form in ("", "gen") or self.is_bare:
            return phrase
        if form == "one":  # a coffee, for a cup of it
            return inflection.with_article(phrase)
        if form == "a":
            return phrase if self.is_plural or self.is_mass else inflection.with_article(phrase)
        determiners = {"this": "these", "that": "those"} if self.is_plural else {}
        return f"{determiners.get(form, form)} {phrase}"

    def in_spanish(self, form: str, own: Reading, other: Word | None, reading: Reading, clitics: list[str]) -> str:
        phrase = self.spanish
        if isinstance(other, Adjective):
            phrase += " " + inflection.agree(other.spanish, self.gender, self.is_plural)
        if form == "" or (self.is_bare and form != "gen") or (form == "a" and (self.is_plural or self.is_mass)):
            return phrase
        kinds = {
            "gen": "the",
            "one": "a",
            "at": "the",
            "to": "the",
            "that one": "that",
            "of": _POSSESSOR[reading.person],
        }
        word = inflection.determiner(kinds.get(form, form), self.spanish, self.gender, self.is_plural)
        if form in _LONE:
            return word
        return f"{_BEFORE.get(form, '')}{word} {phrase}"

    def pluralised(self) -> Noun:
        if self.is_plural or self.is_mass:
            return self
        english, spanish = inflection.english_plural(self.english), inflection.plural(self.spanish)
        return replace(self, english=english, spanish=spanish, is_plural=True)


@dataclass(frozen=True, slots=True)
class Someone(Word):
    """A person: pronoun, name or relative.  `english` and `spanish` are its form as subject."""

    accusative: str
    possessive: str
    agreement: tuple[Reading, ...]
    number_class: int = 1

    @property
    def readings(self) -> tuple[Reading, ...]:
        return self.agreement

    @property
    def number(self) -> int:
        return self.number_class

    @property
    def is_named(self) -> bool:
        return self.english == self.accusative and self.english != "you"

    def in_english(self, form: str, other: Word | None) -> str:
        if form in _AUXILIARIES:
            return _AUXILIARIES[form][self.number]
        if form == "his":  # my brother, seen from Ana: her brother
            return f"{other.possessive if isinstance(other, Someone) else ''} {self.english.removeprefix('my ')}"
        return {"": self.english, "obj": self.accusative, "poss": self.possessive}[form]

    def in_spanish(self, form: str, own: Reading, other: Word | None, reading: Reading, clitics: list[str]) -> str:
        if form == "":
            return self.spanish
        if form in ("do", "io", "self"):
            return _CLITICS[form][own.person] + ("" if form != "do" or own.person[0] != "3" else _ending(own))
        if form == "su":
            return "su " + self.spanish.removeprefix("mi ")
        after = self._after_preposition(own)
        if form == "than":
            return "yo" if own.person == "1s" else after
        if form == "double":  # "a él", "a Ana" where the pronoun alone would not say who; "me" and "te" do
            return f"a {after}" if self.is_named or self.spanish else ""
        if form == "with" and own.person in ("1s", "2s"):
            return {"1s": "conmigo", "2s": "contigo"}[own.person]
        return {"obj": f"a {after}", "with": f"con {after}", "for": f"para {after}"}[form]

    def _after_preposition(self, own: Reading) -> str:
        if self.spanish:
            return self.spanish
        if self.english == "you":
            return {"2s": "ti", "3s": "usted", "3p": "ustedes"}[own.person]
        feminine = own.gender == "f"
        return {"1s": "mí", "1p": "nosotras" if feminine else "nosotros", "3p": "ellas" if feminine else "ellos"}[
            own.person
        ]


_CLITICS = {
    "do": {"1s": "me", "2s": "te", "3s": "l", "1p": "nos", "3p": "l"},
    "io": {"1s": "me", "2s": "te", "3s": "le", "1p": "nos", "3p": "les"},
    "self": {"1s": "me", "2s": "te", "3s": "se", "1p": "nos", "3p": "se"},
}


def _ending(reading: Reading) -> str:
    return ("a" if reading.gender == "f" else "o") + ("s" if reading.is_plural else "")


@dataclass(frozen=True, slots=True)
class Verb(Word):
    def in_english(self, form: str, other: Word | None) -> str:
        if form == "s":
            return inflection.third_person(self.english) if other and other.number == 1 else self.english
        forms = {"past": inflection.past, "part": inflection.past_participle, "ing": inflection.ing}
        return forms[form](self.english) if form else self.english

    def in_spanish(self, form: str, own: Reading, other: Word | None, reading: Reading, clitics: list[str]) -> str:
        infinitive = self.spanish.removesuffix("se") if self.is_reflexive else self.spanish
        if self.is_reflexive:
            clitics = [_CLITICS["self"][reading.person], *clitics]
        match form:
            case "part":
                return inflection.participle(infinitive)
            case "":
                return inflection.attach(infinitive, *clitics)
            case "ing":
                return inflection.attach(inflection.gerund(infinitive), *clitics)
            case "imperative":
                return inflection.attach(inflection.conjugate(infinitive, form, reading.person), *clitics)
            case "dont":
                tense = "subjunctive"
            case _:
                tense = form
        return " ".join([*clitics, inflection.conjugate(infinitive, tense, reading.person)])

    @property
    def is_reflexive(self) -> bool:
        return self.spanish.endswith("se")


_ME = (Reading("1s", "m"), Reading("1s", "f"))

_YOU = tuple(Reading(person, gender) for person in ("2s", "3s", "3p") for gender in ("m", "f"))

_PRONOUNS = {
    "I": Someone("I", "", "me", "my", _ME, 0),
    "you": Someone("you", "", "you", "your", _YOU, 2),
    "he": Someone("he", "él", "him", "his", (Reading("3s", "m"),)),
    "she": Someone("she", "ella", "her", "her", (Reading("3s", "f"),)),
    "we": Someone("we", "", "us", "our", (Reading("1p", "m"), Reading("1p", "f")), 2),
    "they": Someone("they", "", "them", "their", (Reading("3p", "m"), Reading("3p", "f")), 2),
}


# --- the lexicon ------------------------------------------------------------------------------------------------------


class Lexicon:
    """The words of `lexicon.yaml`, asked for by the names that the frames use."""

    def __init__(self, data: dict[str, Any]) -> None:
        self._data = data
        self._nouns = {
            kind: {english: _noun(english, row, data) for english, row in rows.items()}
            for kind, rows in data["nouns"].items()
        }
        self._people = {**_PRONOUNS, **_relatives(data["relatives"]), **_names(data["names"])}
        self._classes: dict[str, list[Word]] = {
            **{kind: [Verb(*row) for row in data[kind].items()] for kind in ("transitive", "intransitive", "social")},
            **{kind: [Adjective(*row) for row in rows.items()] for kind, rows in data["adjectives"].items()},
            **{kind: [Word(*row) for row in rows.items()] for kind, rows in data["phrases"].items()},
            "kin": [self._people[name] for name in data["relatives"]],
            "name": [self._people[name] for name in data["names"]],
            "profession": [Adjective(*row) for row in data["professions"].items()],
            "male": [word for word in _names(data["names"]).values() if word.readings[0].gender == "m"],
            "female": [word for word in _names(data["names"]).values() if word.readings[0].gender == "f"],
        }
        nouns = [noun for rows in self._nouns.values() for noun in rows.values()]
        others = [
            word
            for kind in ("hour", "mood", "profession", "manner", "social", "intransitive")
            for word in self._classes[kind]
        ]
        self._named: dict[str, Word] = {word.english: word for word in [*others, *nouns]}

    def words(self, name: str) -> list[Word]:
        """The fillers of a slot: "garment+pair" and "I/he" join classes, "animal*" is in the plural."""
        if re.search("[+/]", name):
            return [word for part in re.split("[+/]", name) for word in self.words(part)]
        if name.endswith("*"):
            return [_pluralised(word) for word in self.words(name[:-1])]
        if name in self._classes:
            return self._classes[name]
        if name in self._people:
            return [self._people[name]]
        if name in self._data["lists"]:
            return [self._people.get(word) or self._named[word] for word in self._data["lists"][name]]
        if name in self._data["groups"]:
            return [word for part in self._data["groups"][name] for word in self.words(part)]
        return list(self._choose_nouns([name]))

    def _choose_nouns(self, names: Iterable[str]) -> Iterator[Word]:
        """The nouns of these classes, or single words."""
        for name in names:
            yield from self._nouns[name].values() if name in self._nouns else [self._named[name]]

    def pairs(self, name: str) -> list[tuple[Word, Word]]:
        """Two words that go together.  "things*" has the second in the plural."""
        if name.endswith("*"):
            return [(first, _pluralised(second)) for first, second in self.pairs(name[:-1])]
        if name == "same_gender":
            people = itertools.product(self.words("kin"), self.words("name"))
            return [(kin, named) for kin, named in people if kin.readings == named.readings]
        if name in self._data["describes"] or name in self._data["descriptions"]:
            return self._described(name)
        return self._taken(name)

    def _described(self, name: str) -> list[tuple[Word, Word]]:
        """Adjectives with the nouns that they describe."""
        chosen = self._data["descriptions"].get(name, {})
        classes = self._data["describes"][chosen.get("verb", "ser") if chosen else name]
        allowed = set(self._choose_nouns(chosen["nouns"])) if "nouns" in chosen else None
        return [
            (adjective, noun)
            for kind, names in classes.items()
            if kind in chosen.get("classes", classes)
            for adjective, noun in itertools.product(self._classes[kind], self._choose_nouns(names))
            if (allowed is None or noun in allowed) and adjective.english in chosen.get("only", [adjective.english])
        ]

    def _taken(self, name: str) -> list[tuple[Word, Word]]:
        """Verbs with the objects, places or manners that they take."""
        chosen = self._data["selections"][name]
        table = self._data[chosen.get("table", "objects")]
        spanish = self._data[chosen.get("of", "transitive")]
        verbs = [
            verb for verb in chosen.get("verbs", table) if verb in spanish and verb not in chosen.get("without", ())
        ]
        allowed = set(self._choose_nouns(chosen["nouns"])) if "nouns" in chosen else None
        banned = set(self._choose_nouns(chosen.get("not_nouns", ())))
        return [
            (Verb(verb, spanish[verb]), word)
            for verb in verbs
            for word in self._choose_nouns(table[verb])
            if word not in banned and (allowed is None or word in allowed)
        ]

    def lemmas(self, text: str) -> set[str]:
        """The content words that an English sentence may contain, in their dictionary form, whatever they mean."""
        tokens = re.findall(r"[\w-]+", text.lower())
        spans = (" ".join(tokens[at : at + length]) for at in range(len(tokens)) for length in (1, 2, 3))
        return {lemma for span in spans for lemma in self._lemmas_of.get(span, ())}

    def lemma(self, word: str) -> str:
        """The dictionary form under which a slot's filler counts: close for closed, key for keys."""
        word = word.lower().removeprefix("my ")
        return self._lemmas_of.get(word, [word])[0]

    @functools.cached_property
    def _lemmas_of(self) -> dict[str, list[str]]:
        """From every form to its dictionary forms.  Verbs come first."""
        data = self._data
        nested = (rows for section in ("nouns", "adjectives", "phrases") for rows in data[section].values())
        kinds = (
            "auxiliary",
            "transitive",
            "intransitive",
            "social",
            "ditransitive",
            "relatives",
            "names",
            "professions",
        )
        table: dict[str, list[str]] = defaultdict(list)
        for word in (word.lower() for rows in (*(data[kind] for kind in kinds), *nested) for word in rows if word):
            for form in _forms(word):
                if word not in table[form]:
                    table[form].append(word)
        return dict(table)


def _forms(word: str) -> set[str]:
    """Everything that an English word may look like, whatever its part of speech."""
    inflect = (inflection.third_person, inflection.past, inflection.past_participle, inflection.ing)
    return {word, inflection.english_plural(word), *(change(word) for change in inflect)}


def _noun(english: str, row: str, data: dict[str, Any]) -> Noun:
    *spanish, last = row.split()
    flag = last if last in ("mass", "plural", "bare") else ""
    if flag:
        *spanish, last = spanish
    gender: Gender = "f" if last == "f" else "m"
    preposition = "in" if english in data["inside"] else "at"
    is_mass = flag in ("mass", "bare")
    return Noun(english, " ".join(spanish), gender, flag == "plural", is_mass, flag == "bare", preposition)


def _pluralised(word: Word) -> Word:
    return word.pluralised() if isinstance(word, Noun) else word


def _relatives(rows: dict[str, str]) -> dict[str, Someone]:
    people = {}
    for english, row in rows.items():
        spanish, letter = row.split()
        gender: Gender = "f" if letter == "f" else "m"
        mine = f"my {english}"
        people[english] = Someone(
            mine, f"mi {spanish}", mine, "his" if gender == "m" else "her", (Reading("3s", gender),)
        )
    return people


def _names(rows: dict[str, str]) -> dict[str, Someone]:
    people = {}
    for name, letter in rows.items():
        gender: Gender = "f" if letter == "f" else "m"
        people[name] = Someone(name, name, name, "his" if gender == "m" else "her", (Reading("3s", gender),))
    return people


def load_lexicon() -> Lexicon:
    text = Path(__file__).with_name("lexicon.yaml").read_text(encoding="utf-8")
    return Lexicon(yaml.safe_load(text))
