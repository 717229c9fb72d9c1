"""The generator of the bundled corpus: it makes the corpus that ships, and its words and frames explain it."""

import re
import time
from collections import Counter, defaultdict
from itertools import combinations

import pytest

from projtrans.data import phrasebook
from tools.phrasebook import generator, inflection
from tools.phrasebook.lexicon import load_lexicon

pytestmark = pytest.mark.slow

SECONDS = 5


@pytest.fixture(scope="module")
def named():
    """(frame, phrase) for the whole corpus, made in seconds."""
    start = time.process_time()
    found = generator.generate_by_frame()
    assert time.process_time() - start < SECONDS
    return found


@pytest.fixture(scope="module")
def corpus(named):
    return [phrase for _, phrase in named]


def words_of(text):
    return re.findall(r"[\w'-]+", text.lower())


def test_the_shipped_corpus_is_the_generated_one(corpus):
    assert phrasebook.phrases() == corpus, "run python -m tools.phrasebook"


def test_the_file_holds_no_time_stamp():
    """So that the same corpus is the same file: bytes 4 to 7 of a gzip header (RFC 1952)."""
    assert phrasebook.FILE.read_bytes()[4:8] == bytes(4)


def test_no_frame_dominates(named):
    counts = Counter(frame for frame, _ in named)
    assert len(counts) >= 60
    assert max(counts.values()) / len(named) <= 0.03


@pytest.fixture(scope="module")
def targets(corpus):
    by_source = defaultdict(set)
    for phrase in corpus:
        by_source[phrase.source].add(phrase.target)
    return by_source


def test_only_you_and_gender_make_a_source_ambiguous(targets):
    """Without a hearer and without people of unknown gender there is one translation."""
    opens_doors = re.compile(r"\b(you|your|I|we|they|them|us|me|please|don't)\b", re.IGNORECASE)
    commands = Counter()
    for source, found in targets.items():
        if len(found) > 1 and not opens_doors.search(source):
            commands[source.split()[0]] += 1
    verbs = {verb.split()[0].capitalize() for verb in load_lexicon()._data["intransitive"]}
    assert set(commands) <= verbs | {"Let", "Put", "Tell"}


def forms(lemma):
    """Everything that an English word may look like, whatever its part of speech."""
    inflect = (inflection.third_person, inflection.past, inflection.past_participle, inflection.ing)
    return {lemma, inflection.english_plural(lemma), *(change(lemma) for change in inflect)}


@pytest.fixture(scope="module")
def sources_with(corpus):
    """The sources that contain a word, by plain search and independently of the generator's lemmas."""
    texts = {phrase.source: f" {' '.join(words_of(phrase.source))} " for phrase in corpus}
    lemmas = {lemma for phrase in corpus if phrase.group != phrase.source for lemma in phrase.group.split("+")}
    by_word = defaultdict(set)
    for source, text in texts.items():
        for word in text.split():
            by_word[word].add(source)
    return {
        lemma: {
            source for form in forms(lemma) for source in by_word[form.split()[0]] if f" {form} " in texts[source]
        }
        for lemma in lemmas
    }  # fmt: skip


def test_two_words_of_a_group_meet_in_no_other_group(corpus, sources_with):
    group_of = {phrase.source: phrase.group for phrase in corpus}
    groups = {phrase.group for phrase in corpus if phrase.group != phrase.source}
    leaks = [
        (group, source, group_of[source])
        for group in groups
        for first, second in combinations(group.split("+"), 2)
        for source in sources_with[first] & sources_with[second]
        if group_of[source] != group
    ]
    assert not leaks, (len(leaks), leaks[:20])
