"""Word forms of English and Spanish, as far as the bundled phrasebook needs them.

Spanish: stress and written accents, plural, feminine, articles, conjugation, clitic pronouns.
English: third person, past, participle, -ing, plural, a/an.

The functions take and return plain words.  They know no lexicon, no meaning and no sentence: which word to inflect, and
for whom, is decided in `phrasebook`.  A verb that is in none of the tables below is taken to be regular.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from typing import Literal

Person = Literal["1s", "2s", "3s", "1p", "3p"]  # 2s is tú; usted and ustedes are 3s and 3p; vosotros is left out

Gender = Literal["m", "f"]

PERSONS: tuple[Person, ...] = ("1s", "2s", "3s", "1p", "3p")


# --- Spanish stress ---------------------------------------------------------------------------------------------------

_VOWELS = "aeiouáéíóúü"

_STRONG = "aeoáéíóúü"  # a written accent on i or u makes it a syllable of its own

_ACUTE = dict(zip("aeiou", "áéíóú", strict=True))


def _plain(word: str) -> str:
    """The word without acute accents; ñ and ü stay."""
    bare = (c for c in unicodedata.normalize("NFD", word) if c != "\N{COMBINING ACUTE ACCENT}")
    return unicodedata.normalize("NFC", "".join(bare))


def _is_silent(word: str, at: int) -> bool:
    """The u of que, qui, gue and gui."""
    return word[at] == "u" and word[at - 1 : at] in ("q", "g") and word[at + 1 : at + 2] in tuple("eiéí")


def _nuclei(word: str) -> list[int]:
    """Where each syllable's vowel stands: in `siéntate` the positions of é, a and e."""
    nuclei: list[int] = []
    glide = -1  # a weak vowel that waits for its syllable's strong one
    for at, letter in enumerate(word + "."):
        if letter in _STRONG:
            nuclei.append(at)
            glide = -1
        elif letter in "iu" and not _is_silent(word, at):
            follows_vowel = bool(nuclei) and nuclei[-1] == at - 1
            if glide == at - 1 and glide >= 0:  # two weak vowels: the second carries the syllable (cuida, viuda)
                nuclei.append(at)
                glide = -1
            elif not follows_vowel:
                glide = at
        elif glide >= 0 and letter not in _VOWELS:
            nuclei.append(glide)
            glide = -1
    return nuclei


def stressed_vowel(word: str) -> int:
    """The position of the vowel that a reader stresses."""
    for at, letter in enumerate(word):
        if letter in "áéíóú":
            return at
    nuclei = _nuclei(word)
    falls_on_last = word[-1] not in "aeiouns" or len(nuclei) == 1
    return nuclei[-1] if falls_on_last else nuclei[-2]


def _is_hiatus(word: str, at: int) -> bool:
    """A stressed i or u beside a strong vowel, which keeps its accent whatever the rules say (países, oírlo)."""
    neighbours = word[max(at - 1, 0) : at] + word[at + 1 : at + 2]
    return word[at] in "iu" and any(c in "aeo" for c in neighbours)


def lengthen(word: str, suffix: str) -> str:
    """Add an unstressed ending and write the accent that keeps the stress: deja + me, déjame; avión + es, aviones."""
    at = stressed_vowel(word)
    longer = _plain(word) + suffix
    keeps_accent = word[at] in "íú" and _is_hiatus(_plain(word), at)
    if not keeps_accent and stressed_vowel(longer) == at:
        return longer
    return longer[:at] + _ACUTE[longer[at]] + longer[at + 1 :]


# --- Spanish nouns and adjectives -------------------------------------------------------------------------------------

_STRESSED_A = frozenset({"agua", "aula", "águila", "área"})  # feminine nouns that take el and un

_INVARIANT_FEMININE = frozenset({"mejor", "peor", "mayor", "menor", "joven", "marrón"})

_MOVED_STRESS = {"joven": "jóvenes", "examen": "exámenes", "imagen": "imágenes", "lápiz": "lápices"}


def plural(word: str) -> str:
    """The plural of a noun or adjective."""
    if word in _MOVED_STRESS:
        return _MOVED_STRESS[word]
    if word[-1] in "aeiouáéó":
        return word + "s"
    if word[-1] == "s" and stressed_vowel(word) != _nuclei(word)[-1]:  # lunes, paraguas
        return word
    if word[-1] == "z":
        return word[:-1] + "ces"
    return lengthen(word, "es")


def feminine(word: str) -> str:
    """The feminine of an adjective, or of a noun for a person."""
    if word in _INVARIANT_FEMININE:
        return word
    if word[-1] == "o":
        return word[:-1] + "a"
    if word.endswith(("or", "és", "án", "ón", "ín", "ñol")):
        return lengthen(word, "a")
    return word


def agree(word: str, gender: Gender, is_plural: bool) -> str:
    """The adjective's form for a noun of this gender and number."""
    form = feminine(word) if gender == "f" else word
    return plural(form) if is_plural else form


_DETERMINERS: dict[str, tuple[str, str, str, str]] = {  # m, f, m plural, f plural
    "the": ("el", "la", "los", "las"),
    "a": ("un", "una", "unos", "unas"),
    "this": ("este", "esta", "estos", "estas"),
    "that": ("ese", "esa", "esos", "esas"),
    "my": ("mi", "mi", "mis", "mis"),
    "tu": ("tu", "tu", "tus", "tus"),
    "su": ("su", "su", "sus", "sus"),
    "our": ("nuestro", "nuestra", "nuestros", "nuestras"),
    "too many": ("demasiado", "demasiada", "demasiados", "demasiadas"),
    "how many": ("cuánto", "cuánta", "cuántos", "cuántas"),
    "it": ("lo", "la", "los", "las"),
    "all": ("todo", "toda", "todos", "todas"),
    "mine": ("mío", "mía", "míos", "mías"),
}


def determiner(kind: str, noun: str, gender: Gender, is_plural: bool) -> str:
    """The article, demonstrative, possessive or quantifier before this noun, or its pronoun (`it`)."""
    if noun in _STRESSED_A and kind in ("the", "a") and not is_plural:
        gender = "m"
    return _DETERMINERS[kind][2 * is_plural + (gender == "f")]


def contract(text: str) -> str:
    """Write al for "a el" and del for "de el"."""
    return (" " + text).replace(" a el ", " al ").replace(" de el ", " del ").removeprefix(" ")


# --- Spanish verbs ----------------------------------------------------------------------------------------------------

_STEM_CHANGES = {  # of the last stem vowel, where it is stressed
    "ie": """cerrar pensar empezar despertar sentar calentar encender entender perder querer recomendar nevar
             preferir sentir divertir mentir""",
    "ue": """almorzar contar encontrar mostrar costar probar recordar acostar soñar volver devolver mover doler llover
             poder dormir morir jugar""",
    "i": "pedir servir repetir vestir seguir elegir despedir",
    "í": "enviar esquiar",
    "ú": "continuar",
}

_CHANGE = {verb: vowel for vowel, verbs in _STEM_CHANGES.items() for verb in verbs.split()}

_FIRST_PERSON = {
    "tener": "tengo", "venir": "vengo", "poner": "pongo", "salir": "salgo", "hacer": "hago", "decir": "digo",
    "traer": "traigo", "oír": "oigo", "caer": "caigo", "ver": "veo", "saber": "sé", "dar": "doy", "ser": "soy",
    "estar": "estoy", "ir": "voy", "haber": "he",
}  # fmt: skip

_PRESENT = {
    "tener": "tengo tienes tiene tenemos tienen", "venir": "vengo vienes viene venimos vienen",
    "decir": "digo dices dice decimos dicen", "oír": "oigo oyes oye oímos oyen", "ser": "soy eres es somos son",
    "estar": "estoy estás está estamos están", "ir": "voy vas va vamos van", "haber": "he has ha hemos han",
    "dar": "doy das da damos dan", "ver": "veo ves ve vemos ven",
}  # fmt: skip

_STRONG_PRETERITE = {
    "tener": "tuv", "venir": "vin", "poner": "pus", "hacer": "hic", "decir": "dij", "traer": "traj", "estar": "estuv",
    "poder": "pud", "querer": "quis", "saber": "sup", "andar": "anduv", "conducir": "conduj", "traducir": "traduj",
    "haber": "hub",
}  # fmt: skip

_PRETERITE = {
    "ser": "fui fuiste fue fuimos fueron", "ir": "fui fuiste fue fuimos fueron", "dar": "di diste dio dimos dieron",
    "ver": "vi viste vio vimos vieron",
}  # fmt: skip

_IMPERFECT = {
    "ser": "era eras era éramos eran", "ir": "iba ibas iba íbamos iban", "ver": "veía veías veía veíamos veían",
}  # fmt: skip

_FUTURE_STEM = {
    "tener": "tendr", "venir": "vendr", "poner": "pondr", "salir": "saldr", "hacer": "har", "decir": "dir",
    "poder": "podr", "querer": "querr", "saber": "sabr", "haber": "habr", "oír": "oir",
}  # fmt: skip

_SUBJUNCTIVE = {
    "ser": "sea seas sea seamos sean", "ir": "vaya vayas vaya vayamos vayan", "haber": "haya hayas haya hayamos hayan",
    "saber": "sepa sepas sepa sepamos sepan", "dar": "dé des dé demos den", "estar": "esté estés esté estemos estén",
}  # fmt: skip

_IMPERATIVE = {
    "decir": "di", "hacer": "haz", "ir": "ve", "poner": "pon", "salir": "sal", "ser": "sé", "tener": "ten",
    "venir": "ven",
}  # fmt: skip

_PARTICIPLE = {
    "abrir": "abierto", "decir": "dicho", "escribir": "escrito", "hacer": "hecho", "morir": "muerto", "poner": "puesto",
    "romper": "roto", "ver": "visto", "volver": "vuelto", "devolver": "devuelto", "descubrir": "descubierto",
}  # fmt: skip

_GERUND = {"decir": "diciendo", "venir": "viniendo", "poder": "pudiendo", "ir": "yendo"}

_ENDINGS = {  # by tense, then by the infinitive's vowel
    "present": {"a": "o as a amos an", "e": "o es e emos en", "i": "o es e imos en"},
    "preterite": {"a": "é aste ó amos aron", "e": "í iste ió imos ieron", "i": "í iste ió imos ieron"},
    "imperfect": {"a": "aba abas aba ábamos aban", "e": "ía ías ía íamos ían", "i": "ía ías ía íamos ían"},
    "subjunctive": {"a": "e es e emos en", "e": "a as a amos an", "i": "a as a amos an"},
}

_FUTURE = "é ás á emos án"

_CONDITIONAL = "ía ías ía íamos ían"


def _endings(tense: str, verb: str, person: Person) -> str:
    return _ENDINGS[tense][_plain(verb)[-2]].split()[PERSONS.index(person)]


def _spell(verb: str, stem: str, ending: str) -> str:
    """Join them so that the stem's last consonant keeps its sound: busc + é is busqué, cog + o is cojo."""
    is_front = _plain(ending)[0] in "ei"
    if verb.endswith("ar") and is_front:
        for hard, written in (("c", "qu"), ("g", "gu"), ("z", "c")):
            if stem.endswith(hard):
                return stem[:-1] + written + ending
    if not verb.endswith("ar") and not is_front:
        for soft, written in (("gu", "g"), ("g", "j"), ("c", "z")):
            if stem.endswith(soft):
                return stem.removesuffix(soft) + written + ending
    return stem + ending


def _change_stem(stem: str, change: str) -> str:
    """Replace the vowel that the change goes back to: dorm becomes duerm, jug becomes jueg."""
    letters = {"ie": "e", "ue": "ou", "i": "e", "u": "o", "í": "i", "ú": "u"}[change]
    silent_u = len(stem) - 1 if stem.endswith("gu") else len(stem)  # sigu-: the vowel is the one before
    at = max(stem.rfind(letter, 0, silent_u) for letter in letters)
    return stem[:at] + change + stem[at + 1 :]


def _weak_stem(verb: str) -> str:
    """The stem of -ir verbs before a stressed ie, ió or a: pid-, durm-, sint-."""
    change = _CHANGE.get(verb)
    if not verb.endswith("ir") or change not in ("ie", "ue", "i"):
        return verb[:-2]
    return _change_stem(verb[:-2], "u" if change == "ue" else "i")


def _has_vowel_stem(verb: str) -> bool:
    return not verb.endswith("ar") and verb[-3:-2] in tuple("aeou") and not verb.endswith(("guir", "quir"))


def _present(verb: str, person: Person) -> str:
    if verb in _PRESENT:
        return _PRESENT[verb].split()[PERSONS.index(person)]
    stem, ending = verb[:-2], _endings("present", verb, person)
    if person == "1s" and verb in _FIRST_PERSON:
        return _FIRST_PERSON[verb]
    if person == "1s" and verb[-3:] in ("cer", "cir") and verb[-4] in "aeou":
        return stem[:-1] + "zco"
    if verb.endswith("uir") and not verb.endswith("guir") and person != "1p":
        return stem + "y" + ending
    if verb in _CHANGE and person != "1p":
        stem = _change_stem(stem, _CHANGE[verb])
    return _spell(verb, stem, ending)


def _preterite(verb: str, person: Person) -> str:
    if verb in _PRETERITE:
        return _PRETERITE[verb].split()[PERSONS.index(person)]
    if verb in _STRONG_PRETERITE:
        stem = _STRONG_PRETERITE[verb]
        third = "eron" if stem.endswith("j") else "ieron"
        ending = ("e", "iste", "o", "imos", third)[PERSONS.index(person)]
        return "hizo" if stem + ending == "hico" else stem + ending
    ending = _endings("preterite", verb, person)
    is_third = person in ("3s", "3p")
    if _has_vowel_stem(verb):
        joined = {"ió": "yó", "ieron": "yeron"}.get(ending, ending)
        is_weak = verb.endswith("uir")  # construiste, but leíste
        return verb[:-2] + (joined if is_third or is_weak else "í" + joined[1:])
    stem = _weak_stem(verb) if is_third else verb[:-2]
    return _spell(verb, stem, ending)


def _imperfect(verb: str, person: Person) -> str:
    if verb in _IMPERFECT:
        return _IMPERFECT[verb].split()[PERSONS.index(person)]
    return verb[:-2] + _endings("imperfect", verb, person)


def _future(verb: str, person: Person) -> str:
    return _FUTURE_STEM.get(verb, verb) + _FUTURE.split()[PERSONS.index(person)]


def _conditional(verb: str, person: Person) -> str:
    return _FUTURE_STEM.get(verb, verb) + _CONDITIONAL.split()[PERSONS.index(person)]


def _subjunctive(verb: str, person: Person) -> str:
    if verb in _SUBJUNCTIVE:
        return _SUBJUNCTIVE[verb].split()[PERSONS.index(person)]
    ending = _endings("subjunctive", verb, person)
    if person == "1p" and verb in _CHANGE:
        return _spell(verb, _weak_stem(verb), ending)
    first = _present(verb, "1s")[:-1]
    return first + ending if not verb.endswith("ar") else _spell(verb, first, ending)


def _imperative(verb: str, person: Person) -> str:
    if person == "2s":
        return _IMPERATIVE.get(verb) or _present(verb, "3s")
    return _subjunctive(verb, person)


_TENSES = {
    "present": _present,
    "preterite": _preterite,
    "imperfect": _imperfect,
    "future": _future,
    "conditional": _conditional,
    "subjunctive": _subjunctive,
    "imperative": _imperative,
}


@functools.cache
def conjugate(verb: str, tense: str, person: Person) -> str:
    """One finite form of a verb that is given as a plain infinitive, without -se."""
    return _TENSES[tense](verb, person)


def participle(verb: str) -> str:
    """The masculine past participle: comido, leído, hecho."""
    if verb in _PARTICIPLE:
        return _PARTICIPLE[verb]
    if verb.endswith("ar"):
        return verb[:-2] + "ado"
    return verb[:-2] + ("ído" if _has_vowel_stem(verb) and not verb.endswith("uir") else "ido")


def gerund(verb: str) -> str:
    """The -ndo form: comiendo, leyendo, durmiendo."""
    if verb in _GERUND:
        return _GERUND[verb]
    if verb.endswith("ar"):
        return verb[:-2] + "ando"
    return verb[:-2] + "yendo" if _has_vowel_stem(verb) else _weak_stem(verb) + "iendo"


def attach(form: str, *clitics: str) -> str:
    """Pronouns after an imperative, infinitive or gerund: da + me + lo is dámelo."""
    return lengthen(form, "".join(clitics)) if clitics else form


# --- English ----------------------------------------------------------------------------------------------------------

_IRREGULAR = """be was been; become became become; begin began begun; break broke broken; bring brought brought;
build built built; buy bought bought; choose chose chosen; come came come; cost cost cost; cut cut cut; do did done;
draw drew drawn; drink drank drunk; drive drove driven; eat ate eaten; fall fell fallen; feel felt felt;
find found found; forget forgot forgotten; get got got; give gave given; go went gone; have had had; hear heard heard;
hide hid hidden; hurt hurt hurt; keep kept kept; know knew known; leave left left; lend lent lent;
lose lost lost; make made made; meet met met; pay paid paid; put put put; read read read; ride rode ridden;
run ran run; say said said; see saw seen;
sell sold sold; send sent sent; sing sang sung; sit sat sat; sleep slept slept; speak spoke spoken;
spend spent spent; swim swam swum; take took taken; teach taught taught; tell told told; think thought thought;
understand understood understood; wake woke woken; wear wore worn; win won won; write wrote written"""

_PAST_FORMS = {base: (past, part) for base, past, part in (row.split() for row in _IRREGULAR.split(";"))}

_IRREGULAR_PLURALS = {
    "man": "men", "woman": "women", "child": "children", "person": "people", "foot": "feet", "tooth": "teeth",
    "fish": "fish", "potato": "potatoes", "tomato": "tomatoes", "knife": "knives", "stomach": "stomachs",
    "shelf": "shelves", "scarf": "scarves",
}  # fmt: skip

_DOUBLING = frozenset({"begin", "forget", "prefer"})  # longer verbs that are stressed on the last syllable

_SILENT_H = ("hour", "honest")

_YOU_SOUND = ("uni", "use", "eu")  # an initial vowel letter that sounds like a consonant


def _inflect_head(phrase: str, change: dict[str, str] | None, suffix: str) -> str:
    """Inflect the first word of a phrasal verb: wake up, wakes up."""
    head, *rest = phrase.split()
    return " ".join([(change or {}).get(head) or _with_suffix(head, suffix), *rest])


def _doubles(verb: str) -> bool:
    """One short syllable that ends vowel + consonant (swim), or a verb of the list."""
    vowels = [c in "aeiou" for c in verb]
    is_short = len(verb) > 2 and sum(vowels) == 1 and vowels[-2] and verb[-1] not in "aeiouwxy"
    return is_short or verb in _DOUBLING


def _with_suffix(verb: str, suffix: str) -> str:
    """Add -s, -ed or -ing with the spelling changes they ask for."""
    ends_in_consonant_y = verb[-1] == "y" and verb[-2] not in "aeiou"
    if suffix == "s":
        if ends_in_consonant_y:
            return verb[:-1] + "ies"
        return verb + ("es" if verb.endswith(("s", "sh", "ch", "x", "z", "o")) else "s")
    if verb.endswith("e") and not (suffix == "ing" and verb.endswith(("ee", "oe", "ye"))):
        return verb[:-1] + suffix
    if suffix == "ed" and ends_in_consonant_y:
        return verb[:-1] + "ied"
    return verb + verb[-1] + suffix if _doubles(verb) else verb + suffix


def third_person(verb: str) -> str:
    return _inflect_head(verb, {"have": "has", "be": "is"}, "s")


def past(verb: str) -> str:
    return _inflect_head(verb, {base: forms[0] for base, forms in _PAST_FORMS.items()}, "ed")


def past_participle(verb: str) -> str:
    return _inflect_head(verb, {base: forms[1] for base, forms in _PAST_FORMS.items()}, "ed")


def ing(verb: str) -> str:
    return _inflect_head(verb, {"be": "being"}, "ing")


def english_plural(noun: str) -> str:
    """The plural of a noun, whose last word carries it."""
    *front, last = noun.split()
    if last not in _IRREGULAR_PLURALS and last.endswith("o"):  # photos, kilos; potatoes are in the table
        return " ".join([*front, last + "s"])
    return " ".join([*front, _IRREGULAR_PLURALS.get(last) or _with_suffix(last, "s")])


def with_article(noun: str) -> str:
    """The noun phrase with a or an, chosen by sound."""
    sounds_as_vowel = noun.startswith(_SILENT_H) or (noun[0].lower() in "aeiou" and not noun.startswith(_YOU_SOUND))
    return f"{'an' if sounds_as_vowel else 'a'} {noun}"


def comparative(adjective: str) -> str:
    """One syllable, or two with -y, take -er; longer adjectives take more."""
    if adjective == "shy":
        return "shyer"
    if adjective in ("heavy", "pretty", "ugly", "easy", "lazy"):
        return adjective[:-1] + "ier"
    if len(re.findall("[aeiou]+", adjective.removesuffix("e"))) > 1:
        return f"more {adjective}"
    return _with_suffix(adjective, "ed")[:-2] + "er"
