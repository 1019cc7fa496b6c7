"""A small invented world in which only rationales say which document supports an answer.

Places have eight facts each. A question names a fact by its plain name; the document that states it mostly does so in
other words. Some documents repeat the question and state nothing, others state another fact of the same place, the
rest is about other places. The places of the training and the test questions are different ones, so that a reranker
can win only by learning which words mean which fact, and nothing but the rationales tells it that.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from data.radio import placebo as radio_placebo
from data.radio.answers import exact_match
from data.radio.fuse import Scored, Scorer
from data.radio.placebo import donors
from data.radio.pools import Pool, make_pool
from data.radio.tfidf import Tfidf

# The name a question uses, and two ways to say it that share no word with it nor with one another.
RELATIONS: tuple[tuple[str, tuple[str, str]], ...] = (
    ("ruler", ("obeys the crown worn by", "bows before the throne under")),
    ("river", ("drinks from waters called", "washes along banks named")),
    ("harvest", ("fills its barns with", "reaps each autumn mostly")),
    ("founder", ("owes its first stone to", "began as a camp pitched by")),
    ("festival", ("dances every spring at", "lights lanterns yearly during")),
    ("emblem", ("paints upon shields a", "stitches onto flags the")),
    ("language", ("speaks at home in", "writes its letters using")),
    ("rival", ("quarrels over pastures against", "guards borders facing")),
)
_FIRST_WORDS = (
    "amber birch cinder dusk elder fallow granite hollow iron jade kestrel linden marble nether ochre pebble "
    "quartz raven silver thistle umber velvet willow yarrow"
)
_SECOND_WORDS = (
    "ford gate haven keep landing meadow narrows orchard pass quay reach shore tarn vale ward wharf bluff cairn "
    "downs ferry glade heath isle knoll"
)
_ONSETS = ("b", "d", "f", "g", "k", "l", "m", "n", "p", "r", "s", "t", "v", "z", "br", "dr")
_NUCLEI = ("a", "e", "i", "o", "u", "ai", "eo")
# So many that the words of a value are rare. Were they frequent, a rationale would hardly tell the document that states
# the value from one that repeats the question.
_CODAS = ("", "n", "r", "l", "s", "m", "k", "t", "p", "x", "st", "nd")
_FILLERS = (
    "travellers say so openly, as old maps show, according to merchants, in most records, by common account, "
    "if pilgrims are right, since long ago, whatever visitors think"
)
_FIRST, _SECOND, FILLER = _FIRST_WORDS.split(), _SECOND_WORDS.split(), _FILLERS.split(", ")
TOPICAL = (
    "much has been asked about the {relation} of {place} and little is settled",
    "what {relation} {place} may have is a matter that {place} debates",
    "books that tell about {place} mention its {relation} without detail",
)


@dataclass(frozen=True)
class World:
    """Its size, and what makes it. The same values give the same world on every machine."""

    seed: int = 0
    train_places: int = 150
    test_places: int = 50
    questions_per_place: int = 4
    pool: int = 24
    decoys: int = 5
    other_words: float = 0.6
    """Share of documents that state their fact in other words than its plain name."""


@dataclass(frozen=True)
class Split:
    """Pools in the order of a TF-IDF retriever, the scripted rationales, and which document is the right one."""

    pools: list[Pool]
    rationales: dict[str, str]
    gold: dict[str, str]
    """Document id by question id."""
    holds: dict[str, tuple[str, str | None]]
    """Place and value of each document, which the reader goes by; None: it states nothing."""


def build(world: World) -> tuple[Split, Split, Scorer]:
    """Training questions, test questions about other places, and the TF-IDF scorer over all documents."""
    dice = random.Random(f"radio world {world.seed}")
    places = place_names(dice, world.train_places + world.test_places)
    facts = {place: [invented_value(dice) for _ in RELATIONS] for place in places}
    train, test = places[: world.train_places], places[world.train_places :]
    raw = [
        [question for place in part for question in _questions(world, dice, place, part, facts)]
        for part in (train, test)
    ]
    tfidf = Tfidf(document["text"] for part in raw for question in part for document in question["documents"])
    return _split(raw[0], tfidf), _split(raw[1], tfidf), tfidf.score


def read_answer(split: Split, pool: Pool, order: Iterable[int], top: int = 3) -> str:
    """The fixed reader: of the first documents, the value of the first one about the place that holds a value."""
    place = pool.question.split(" does ")[1].removesuffix(" have")
    for index in list(order)[:top]:
        about, value = split.holds[pool.documents[int(index)].id]
        if about == place and value is not None:
            return value
    return ""


def exact_matches(split: Split, orders: Sequence[Iterable[int]], top: int = 3) -> list[float]:
    """Exact match of the reader's answer for every question, under the given orders of the pools."""
    return [
        exact_match(read_answer(split, pool, order, top), pool.answers)
        for pool, order in zip(split.pools, orders, strict=True)
    ]


def oracle_orders(split: Split) -> list[list[int]]:
    """The right document first, the others as retrieved."""
    return [
        sorted(range(len(pool.documents)), key=lambda i: pool.documents[i].id != split.gold[pool.id])
        for pool in split.pools
    ]


def score_placebo(split: Split, scorer: Scorer, seed: int = 0) -> list[Scored]:
    """Every pool scored with the answers and the rationale of another question."""
    given = donors(split.pools, split.rationales, seed)
    return list(radio_placebo.score_placebo(split.pools, given, scorer, Counter()))


def words() -> list[str]:
    """Every word of the world but the values, which are made of syllables."""
    phrases = [phrase for name, both in RELATIONS for phrase in (name, *both)]
    text = [
        *_FIRST,
        *_SECOND,
        *phrases,
        *FILLER,
        *TOPICAL,
        "which does have the of",
        scripted_rationale("", 0, ""),
    ]
    bare = " ".join(text).replace("{relation}", " ").replace("{place}", " ")
    return list(dict.fromkeys(bare.replace(",", " , ").replace(".", " . ").lower().split()))


def syllables() -> list[str]:
    return [onset + nucleus + coda for onset in _ONSETS for nucleus in _NUCLEI for coda in _CODAS]


def place_names(dice: random.Random, count: int) -> list[str]:
    every = [f"{first} {second}" for first in _FIRST for second in _SECOND]
    return sorted(every, key=lambda _: dice.random())[:count]


def invented_value(dice: random.Random) -> str:
    made = syllables()
    return " ".join(made[int(dice.random() * len(made))] for _ in range(3))


def pick(dice: random.Random, among: Sequence[Any]) -> Any:
    return among[int(dice.random() * len(among))]


def statement(world: World, dice: random.Random, place: str, relation: int, value: str) -> str:
    name, other = RELATIONS[relation]
    if dice.random() < world.other_words:
        said = f"{place} {pick(dice, other)} {value}"
    else:
        said = f"the {name} of {place} is {value}"
    return f"{said} , {pick(dice, FILLER)}"


def scripted_rationale(place: str, relation: int, value: str) -> str:
    one, two = RELATIONS[relation][1]
    return f"it is known that {place} {one} {value} , and that it {two} {value} ."


def _questions(
    world: World, dice: random.Random, place: str, places: Sequence[str], facts: dict[str, list[str]]
) -> list[dict[str, Any]]:
    asked = sorted(range(len(RELATIONS)), key=lambda _: dice.random())[: world.questions_per_place]
    return [_question(world, dice, place, relation, places, facts) for relation in sorted(asked)]


def _question(
    world: World,
    dice: random.Random,
    place: str,
    relation: int,
    places: Sequence[str],
    facts: dict[str, list[str]],
) -> dict[str, Any]:
    name, value = RELATIONS[relation][0], facts[place][relation]
    key = f"{place}/{name}".replace(" ", "-")
    documents: list[tuple[str, str, str | None, str]] = [
        ("gold", place, value, statement(world, dice, place, relation, value))
    ]
    for number in range(1 + int(dice.random() * 4)):
        text = f"{pick(dice, TOPICAL).format(relation=name, place=place)} , {pick(dice, FILLER)}"
        documents.append((f"topical{number}", place, None, text))
    others = [other for other in range(len(RELATIONS)) if other != relation]
    for other in sorted(others, key=lambda _: dice.random())[: world.decoys]:
        told = facts[place][other]
        documents.append((f"decoy{other}", place, told, statement(world, dice, place, other, told)))
    while len(documents) < world.pool:
        elsewhere, other = pick(dice, places), int(dice.random() * len(RELATIONS))
        if elsewhere != place:
            told = facts[elsewhere][other]
            text = statement(world, dice, elsewhere, other, told)
            documents.append((f"noise{len(documents)}", elsewhere, told, text))
    return {
        "id": key,
        "question": f"which {name} does {place} have",
        "golden_answers": [value],
        "documents": [
            {"id": f"{key}#{kind}", "text": text, "place": about, "value": told}
            for kind, about, told, text in sorted(documents, key=lambda _: dice.random())
        ],
        "reason": scripted_rationale(place, relation, value),
        "gold": f"{key}#gold",
    }


def _split(raw: list[dict[str, Any]], tfidf: Tfidf) -> Split:
    found = tfidf.score(
        [question["question"] for question in raw],
        [[document["text"] for document in question["documents"]] for question in raw],
    )
    pools: list[Pool] = []
    for question, scores in zip(raw, found, strict=True):
        documents = [
            {**document, "score": float(score)}
            for document, score in zip(question["documents"], scores, strict=True)
        ]
        pools.append(make_pool({**question, "documents": documents}, question["id"], Counter()))
    return Split(
        pools,
        {question["id"]: question["reason"] for question in raw},
        {question["id"]: question["gold"] for question in raw},
        {d["id"]: (d["place"], d["value"]) for question in raw for d in question["documents"]},
    )
