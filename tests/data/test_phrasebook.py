"""What the bundled corpus promises: its size, its form, its policy on ambiguity, and that no combination leaks."""

import hashlib
import re
import unicodedata
from collections import Counter, defaultdict

import pytest

from projtrans.data import phrasebook

# Of the whole corpus; it changes only together with the lexicon or the grammar.
CHECKSUM = "7d28a28e1bc878ffc0639c879f514e462f33a38b05cbd33d8689c65ff8605557"
YOU = ("Déjame", "Déjeme", "Déjenme")


@pytest.fixture(scope="module")
def corpus():
    return phrasebook.phrases()


@pytest.fixture(scope="module")
def targets(corpus):
    by_source = defaultdict(set)
    for phrase in corpus:
        by_source[phrase.source].add(phrase.target)
    return by_source


def words(text):
    return re.findall(r"[\w'-]+", text.lower())


# --- size and determinism ---------------------------------------------------------------------------------------------


def test_about_twenty_thousand_distinct_pairs(corpus):
    assert 19_000 <= len(corpus) <= 21_000
    assert len({(phrase.source, phrase.target) for phrase in corpus}) == len(corpus)


def test_the_corpus_never_changes(corpus):
    text = "".join(f"{phrase.source}\t{phrase.target}\t{phrase.group}\n" for phrase in corpus)
    assert hashlib.sha256(text.encode()).hexdigest() == CHECKSUM


def test_rich_in_word_forms(corpus):
    english = {word for phrase in corpus for word in words(phrase.source)}
    spanish = {word for phrase in corpus for word in words(phrase.target)}
    assert len(english) >= 1200
    assert len(spanish) >= 1800


def test_most_running_words_are_seen_often_enough_to_be_learned(corpus):
    counts = Counter(word for phrase in corpus for word in words(phrase.target))
    frequent = sum(count for count in counts.values() if count >= 8)
    assert frequent / counts.total() >= 0.95


# --- the form of a sentence -------------------------------------------------------------------------------------------


def test_every_text_is_well_formed(corpus):
    for text in {text for phrase in corpus for text in (phrase.source, phrase.target)}:
        assert text == unicodedata.normalize("NFC", text.strip())
        assert text[-1] in ".?!"
        assert not re.search(r"\s\s|\s[.,?!]|[{}]", text), text
        assert re.match(r"[¿¡]?[^\W\d_]", text), text
        assert text.lstrip("¿¡")[0].isupper(), text
        assert len(text.split()) <= 14


def test_spanish_opens_what_it_closes(corpus):
    for phrase in corpus:
        assert phrase.target.count("¿") == phrase.target.count("?") == phrase.source.count("?"), phrase
        assert phrase.target.count("¡") == phrase.target.count("!"), phrase


def test_contractions_and_articles_are_right(corpus):
    for phrase in corpus:
        assert not re.search(r"\b(a|de) el\b", phrase.target), phrase
        assert not re.search(r"\ba [aeio]|\ban [^aeiouh]", phrase.source), phrase
        assert not re.search(r"\b(vosotros|vuestr\w+|(?!dieci)\w+[áé]is)\b", phrase.target), phrase


def test_he_and_she_are_always_said(corpus):
    """The policy on subject pronouns, read off the surface."""
    for phrase in corpus:
        first = phrase.source.split()[0]
        if first in ("He", "She") and not re.search(r"\b(likes?|loves?|like)\b", phrase.source):
            assert re.search(r"\b([Éé]l|[Ee]lla)\b", phrase.target), phrase
        if first == "I":
            assert not re.search(r"\b[Yy]o\b", phrase.target), phrase


# --- ambiguity --------------------------------------------------------------------------------------------------------


def test_a_tenth_to_a_fifth_of_the_sources_is_ambiguous(targets):
    share = sum(len(found) > 1 for found in targets.values()) / len(targets)
    assert 0.10 <= share <= 0.20


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("Let me eat alone.", {f"{command} comer {alone}." for command in YOU for alone in ("solo", "sola")}),
        ("Let me go home.", {f"{command} ir a casa." for command in YOU}),
        ("Let him go alone.", {"Déjalo ir solo.", "Déjelo ir solo.", "Déjenlo ir solo."}),
        ("Let her go alone.", {"Déjala ir sola.", "Déjela ir sola.", "Déjenla ir sola."}),
        ("I want to go alone.", {"Quiero ir solo.", "Quiero ir sola."}),
        ("How are you?", {"¿Cómo estás?", "¿Cómo está?", "¿Cómo están?"}),
    ],
)
def test_all_readings_are_given(targets, source, expected):
    assert targets[source] == expected


# --- the README's example and its kin ---------------------------------------------------------------------------------


def test_the_readme_example_is_held_out_of_the_corpus(targets):
    assert "Let me go alone." not in targets


def test_its_kin_are_there_to_generalise_from(targets):
    alone = {source for source in targets if re.fullmatch(r"Let me [\w ]+ alone\.", source)}
    go = {source for source in targets if re.fullmatch(r"Let me go [\w ]+\.", source)}
    assert len(alone) >= 12
    assert len(go) >= 30
    assert {f"Let {whom} go alone." for whom in ("him", "her", "us", "them")} <= set(targets)
    assert {"Don't go alone.", "Let me go with them.", "I want to go alone.", "Let me work alone."} <= set(targets)


# --- held-out combinations --------------------------------------------------------------------------------------------


def components(corpus):
    """The groups that a split must keep together: pairs that share source, target or group."""
    parent = {}

    def root(key):
        while parent.setdefault(key, key) != key:
            key = parent[key]
        return key

    for phrase in corpus:
        for key in (("target", phrase.target), ("group", phrase.group)):
            parent[root(key)] = root(("source", phrase.source))
    return Counter(root(("source", phrase.source)) for phrase in corpus)


def test_groups_are_small_and_many(corpus):
    sizes = components(corpus)
    assert len(sizes) >= 1000
    assert max(sizes.values()) / len(corpus) < 0.01


def test_each_source_has_one_group(corpus):
    groups = defaultdict(set)
    for phrase in corpus:
        groups[phrase.source].add(phrase.group)
    assert all(len(found) == 1 for found in groups.values())


# --- agreement, read off the surface ----------------------------------------------------------------------------------

GENDERS = {"casa": "f", "mesa": "f", "llave": "f", "flor": "f", "foto": "f", "leche": "f", "mano": "f", "camión": "m",
           "mapa": "m", "sofá": "m", "problema": "m", "poema": "m", "coche": "m", "lápiz": "m", "reloj": "m",
           "canción": "f", "viaje": "m", "árbol": "m", "carne": "f", "arroz": "m"}  # fmt: skip


def test_determiners_agree_with_nouns_of_known_gender(corpus):
    """An oracle of twenty nouns whose ending does not give their gender away, or that are very common."""
    masculine, feminine = {"el", "un", "este", "ese", "nuestro"}, {"la", "una", "esta", "esa", "nuestra"}
    seen = set()
    for phrase in corpus:
        for before, noun in re.findall(r"\b(\w+) (\w+)", phrase.target.lower()):
            if noun in GENDERS and before in masculine | feminine:
                seen.add(noun)
                assert before in (masculine if GENDERS[noun] == "m" else feminine), phrase
    assert len(seen) >= 18


def test_names_and_adjectives_agree(corpus):
    women = {"Ana", "Carmen", "Lucía", "Elena", "Marta", "Laura", "Rosa", "Sofía", "Teresa", "Isabel"}
    checked = 0
    for phrase in corpus:
        match = re.fullmatch(r"(\w+) (?:es|está) (?:muy )?(\w+)\.", phrase.target)
        if (
            match
            and match[2].endswith(("do", "da", "so", "sa"))
            and match[1].istitle()
            and match[1] not in ("Él", "Su")
        ):
            is_feminine = match[1] in women | {"Ella", "Julia", "Clara", "Alicia"}
            assert match[2].endswith("a") == is_feminine, phrase
            checked += 1
    assert checked > 50
