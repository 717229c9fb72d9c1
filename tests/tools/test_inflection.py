"""Word forms against tables written by hand, each row with the rule that it stands for."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tools.phrasebook import inflection

# verb: present 1s 3s 1p, preterite 1s 3s 3p, imperfect 1s, future 1s, subjunctive 3s 1p, command 2s, gerund, participle
CONJUGATIONS = """
hablar   hablo habla hablamos  hablé habló hablaron  hablaba  hablaré  hable hablemos  habla  hablando hablado;
comer    como come comemos  comí comió comieron  comía  comeré  coma comamos  come  comiendo comido;
vivir    vivo vive vivimos  viví vivió vivieron  vivía  viviré  viva vivamos  vive  viviendo vivido;
ser      soy es somos  fui fue fueron  era  seré  sea seamos  sé  siendo sido;
estar    estoy está estamos  estuve estuvo estuvieron  estaba  estaré  esté estemos  está  estando estado;
ir       voy va vamos  fui fue fueron  iba  iré  vaya vayamos  ve  yendo ido;
haber    he ha hemos  hube hubo hubieron  había  habré  haya hayamos  -  habiendo habido;
tener    tengo tiene tenemos  tuve tuvo tuvieron  tenía  tendré  tenga tengamos  ten  teniendo tenido;
hacer    hago hace hacemos  hice hizo hicieron  hacía  haré  haga hagamos  haz  haciendo hecho;
decir    digo dice decimos  dije dijo dijeron  decía  diré  diga digamos  di  diciendo dicho;
venir    vengo viene venimos  vine vino vinieron  venía  vendré  venga vengamos  ven  viniendo venido;
poner    pongo pone ponemos  puse puso pusieron  ponía  pondré  ponga pongamos  pon  poniendo puesto;
salir    salgo sale salimos  salí salió salieron  salía  saldré  salga salgamos  sal  saliendo salido;
traer    traigo trae traemos  traje trajo trajeron  traía  traeré  traiga traigamos  trae  trayendo traído;
oír      oigo oye oímos  oí oyó oyeron  oía  oiré  oiga oigamos  oye  oyendo oído;
ver      veo ve vemos  vi vio vieron  veía  veré  vea veamos  ve  viendo visto;
dar      doy da damos  di dio dieron  daba  daré  dé demos  da  dando dado;
saber    sé sabe sabemos  supe supo supieron  sabía  sabré  sepa sepamos  sabe  sabiendo sabido;
querer   quiero quiere queremos  quise quiso quisieron  quería  querré  quiera queramos  quiere  queriendo querido;
poder    puedo puede podemos  pude pudo pudieron  podía  podré  pueda podamos  -  pudiendo podido;
conocer  conozco conoce conocemos  conocí conoció conocieron  conocía  conoceré
        conozca conozcamos  conoce  conociendo conocido;
conducir conduzco conduce conducimos  conduje condujo condujeron  conducía  conduciré
        conduzca conduzcamos  conduce  conduciendo conducido;
dormir   duermo duerme dormimos  dormí durmió durmieron  dormía  dormiré  duerma durmamos  duerme  durmiendo dormido;
pedir    pido pide pedimos  pedí pidió pidieron  pedía  pediré  pida pidamos  pide  pidiendo pedido;
cerrar   cierro cierra cerramos  cerré cerró cerraron  cerraba  cerraré  cierre cerremos  cierra  cerrando cerrado;
jugar    juego juega jugamos  jugué jugó jugaron  jugaba  jugaré  juegue juguemos  juega  jugando jugado;
buscar   busco busca buscamos  busqué buscó buscaron  buscaba  buscaré  busque busquemos  busca  buscando buscado;
empezar  empiezo empieza empezamos  empecé empezó empezaron  empezaba  empezaré  empiece empecemos
        empieza  empezando empezado;
leer     leo lee leemos  leí leyó leyeron  leía  leeré  lea leamos  lee  leyendo leído;
construir construyo construye construimos  construí construyó construyeron  construía  construiré
        construya construyamos  construye  construyendo construido;
seguir   sigo sigue seguimos  seguí siguió siguieron  seguía  seguiré  siga sigamos  sigue  siguiendo seguido;
recoger  recojo recoge recogemos  recogí recogió recogieron  recogía  recogeré  recoja recojamos
        recoge  recogiendo recogido;
enviar   envío envía enviamos  envié envió enviaron  enviaba  enviaré  envíe enviemos  envía  enviando enviado;
elegir   elijo elige elegimos  elegí eligió eligieron  elegía  elegiré  elija elijamos  elige  eligiendo elegido
"""
CELLS = [
    ("present", "1s"), ("present", "3s"), ("present", "1p"), ("preterite", "1s"), ("preterite", "3s"),
    ("preterite", "3p"), ("imperfect", "1s"), ("future", "1s"), ("subjunctive", "3s"), ("subjunctive", "1p"),
    ("imperative", "2s"),
]  # fmt: skip


@pytest.mark.parametrize("row", CONJUGATIONS.split(";"), ids=lambda row: row.split()[0])
def test_conjugation_agrees_with_the_grammar_book(row):
    verb, *forms, gerund, participle = row.split()
    for (tense, person), form in zip(CELLS, forms, strict=True):
        assert form in ("-", inflection.conjugate(verb, tense, person)), (tense, person)
    assert (inflection.gerund(verb), inflection.participle(verb)) == (gerund, participle)


def test_all_persons_of_one_irregular_verb():
    present = [inflection.conjugate("tener", "present", person) for person in inflection.PERSONS]
    conditional = [inflection.conjugate("tener", "conditional", person) for person in inflection.PERSONS]
    assert present == ["tengo", "tienes", "tiene", "tenemos", "tienen"]
    assert conditional == ["tendría", "tendrías", "tendría", "tendríamos", "tendrían"]


@pytest.mark.parametrize(
    ("form", "clitics", "expected"),
    [
        ("deja", ["me"], "déjame"),  # the stress stays where it was, so it must be written
        ("deje", ["me"], "déjeme"),
        ("dejen", ["nos"], "déjennos"),  # the n of ustedes meets that of nos
        ("da", ["me"], "dame"),  # two syllables: the rule already stresses the first
        ("da", ["me", "lo"], "dámelo"),
        ("dé", ["me"], "deme"),  # an accent that is no longer needed goes
        ("comprar", ["lo"], "comprarlo"),
        ("comprar", ["te", "lo"], "comprártelo"),
        ("diciendo", ["me"], "diciéndome"),
        ("leyendo", ["lo"], "leyéndolo"),
        ("oír", ["lo"], "oírlo"),  # í beside a strong vowel keeps its accent
        ("envía", ["me"], "envíame"),
        ("siente", ["se"], "siéntese"),
        ("trae", ["me"], "tráeme"),
        ("pon", ["te"], "ponte"),
        ("busque", ["las"], "búsquelas"),  # the u of que is silent
        ("sigue", ["nos"], "síguenos"),
        ("limpia", ["la"], "límpiala"),  # ia is one syllable
    ],
)
def test_pronouns_are_attached_with_the_right_accent(form, clitics, expected):
    assert inflection.attach(form, *clitics) == expected


@given(
    st.sampled_from(["hablando", "comer", "lava", "escriba", "traigan", "oye"]), st.sampled_from(["me", "lo", "las"])
)
def test_attaching_never_moves_the_stress(form, clitic):
    longer = inflection.attach(form, clitic)
    assert inflection.stressed_vowel(longer) == inflection.stressed_vowel(form)


@pytest.mark.parametrize(
    ("singular", "plural"),
    [
        ("casa", "casas"),  # vowel: s
        ("papel", "papeles"),  # consonant: es
        ("luz", "luces"),  # z becomes c
        ("avión", "aviones"),  # the accent is no longer needed
        ("examen", "exámenes"),  # and here it becomes needed
        ("joven", "jóvenes"),
        ("inglés", "ingleses"),  # stressed s: es
        ("lunes", "lunes"),  # unstressed s: no change
        ("paraguas", "paraguas"),
        ("sofá", "sofás"),
        ("país", "países"),  # the hiatus keeps its accent
        ("reloj", "relojes"),
        ("árbol", "árboles"),
        ("suéter", "suéteres"),
    ],
)
def test_spanish_plural(singular, plural):
    assert inflection.plural(singular) == plural


@pytest.mark.parametrize(
    ("adjective", "forms"),
    [
        ("rojo", "rojo roja rojos rojas"),
        ("grande", "grande grande grandes grandes"),  # no gender
        ("azul", "azul azul azules azules"),
        ("trabajador", "trabajador trabajadora trabajadores trabajadoras"),  # -or takes a
        ("irlandés", "irlandés irlandesa irlandeses irlandesas"),  # nationality
        ("marrón", "marrón marrón marrones marrones"),  # a colour in -ón does not
        ("joven", "joven joven jóvenes jóvenes"),
        ("optimista", "optimista optimista optimistas optimistas"),
        ("feliz", "feliz feliz felices felices"),
    ],
)
def test_adjectives_agree(adjective, forms):
    made = [inflection.agree(adjective, gender, plural) for plural in (False, True) for gender in ("m", "f")]
    assert made == forms.split()


@pytest.mark.parametrize(
    ("kind", "noun", "gender", "is_plural", "expected"),
    [
        ("the", "mesa", "f", False, "la"),
        ("the", "agua", "f", False, "el"),  # feminine, but stressed a
        ("the", "agua", "f", True, "las"),  # only in the singular
        ("this", "agua", "f", False, "esta"),  # and only with articles
        ("a", "libro", "m", False, "un"),
        ("our", "casa", "f", True, "nuestras"),
        ("it", "libro", "m", True, "los"),
    ],
)
def test_determiners(kind, noun, gender, is_plural, expected):
    assert inflection.determiner(kind, noun, gender, is_plural) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("voy a el parque", "voy al parque"),
        ("cerca de el lago", "cerca del lago"),
        ("a él le gusta", "a él le gusta"),  # the pronoun is not the article
        ("a ella", "a ella"),
        ("a el banco y a el lago", "al banco y al lago"),
    ],
)
def test_contractions(text, expected):
    assert inflection.contract(text) == expected


@pytest.mark.parametrize(
    ("verb", "third", "past", "participle", "ing"),
    [
        ("work", "works", "worked", "worked", "working"),
        ("wash", "washes", "washed", "washed", "washing"),  # sh: es
        ("study", "studies", "studied", "studied", "studying"),  # consonant + y
        ("play", "plays", "played", "played", "playing"),  # vowel + y
        ("dance", "dances", "danced", "danced", "dancing"),  # silent e
        ("see", "sees", "saw", "seen", "seeing"),  # ee stays
        ("run", "runs", "ran", "run", "running"),  # doubled
        ("open", "opens", "opened", "opened", "opening"),  # unstressed last syllable: not doubled
        ("forget", "forgets", "forgot", "forgotten", "forgetting"),
        ("wake up", "wakes up", "woke up", "woken up", "waking up"),  # the particle stays
        ("have", "has", "had", "had", "having"),
        ("go", "goes", "went", "gone", "going"),
    ],
)
def test_english_verbs(verb, third, past, participle, ing):
    assert inflection.third_person(verb) == third
    assert inflection.past(verb) == past
    assert inflection.past_participle(verb) == participle
    assert inflection.ing(verb) == ing


@pytest.mark.parametrize(
    ("noun", "plural", "with_article"),
    [
        ("apple", "apples", "an apple"),
        ("university", "universities", "a university"),  # said with y
        ("umbrella", "umbrellas", "an umbrella"),
        ("watch", "watches", "a watch"),
        ("photo", "photos", "a photo"),
        ("tomato", "tomatoes", "a tomato"),
        ("scarf", "scarves", "a scarf"),
        ("child", "children", "a child"),
    ],
)
def test_english_nouns(noun, plural, with_article):
    assert inflection.english_plural(noun) == plural
    assert inflection.with_article(noun) == with_article


def test_comparatives():
    forms = {"old": "older", "big": "bigger", "ugly": "uglier", "easy": "easier", "modern": "more modern"}
    assert {word: inflection.comparative(word) for word in forms} == forms
