"""The quickstart's task: everyday messages, and the telegrams that operators of mixed quality made of them.

Everything is generated from the words below. The held-out rows share no name, place, thing, sentence or
phrase with the training rows; only the weekdays are the same. Each message has six facts to keep.

The demonstrations are of mixed quality on purpose, as collected demonstrations are: a careful operator keeps
every fact in few words, a chatty one sends the whole message, a hasty one leaves facts out. Imitation
learns all three; that the careful ones are wanted is what preferences have to teach.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

INSTRUCTION = "Shorten the message to a telegram. Keep every name, place, time and number. End with STOP."
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MINUTES = ("05", "10", "15", "20", "25", "35", "40", "45", "50", "55")
Operator = Literal["careful", "chatty", "hasty"]


def _split(words: str) -> tuple[str, ...]:
    return tuple(words.split())


@dataclass(frozen=True)
class Words:
    """One side of the split. An event or a request is (sentence, telegram)."""

    names: Sequence[str]
    places: Sequence[str]
    things: Sequence[str]
    openings: Sequence[str]
    events: Sequence[tuple[str, str]]
    requests: Sequence[tuple[str, str]]


TRAIN = Words(
    names=_split(
        "Alice Bruno Carla David Elena Felix Greta Henry Irene Jonas Karin Louis Maria Nadia Oscar Paula "
        "Quentin Rosa Samuel Teresa Ulrich Vera Walter Yvonne Agnes Bernard Clara Dennis Edith Frank "
        "Gloria Hugo Isabel Jacob Kate Leonard Martha Nicholas Olga Peter"
    ),
    places=_split(
        "Paris Madrid Vienna Prague Dublin Athens Cairo Boston Chicago Denver Geneva Hamburg Istanbul "
        "Kyoto London Munich Naples Oxford Porto Quebec Rome Seville Tokyo Utrecht Venice Warsaw York Zurich "
        "Bergen Cologne Dover Essex Florence Glasgow Havana Leeds"
    ),
    things=_split(
        "blankets lamps chairs letters apples tickets ropes books bottles candles hats horses boxes eggs "
        "pencils shirts spoons tents wheels maps coins plates"
    ),
    openings=(
        "I hope that you are well.",
        "Thank you for your kind letter.",
        "Sorry for the short notice.",
        "Greetings from all of us.",
        "There is news at last.",
        "I must be brief today.",
    ),
    events=(
        ("{name} reached {place} safely on {day} at {time}.", "{name} safe {place} {day} {time}"),
        (
            "The train with {name} leaves {place} on {day} at {time}.",
            "{name} train leaves {place} {day} {time}",
        ),
        (
            "Please meet {name} at the station in {place} on {day} at {time}.",
            "meet {name} {place} {day} {time}",
        ),
        (
            "{name} missed the boat in {place} and takes another on {day} at {time}.",
            "{name} missed boat {place} next {day} {time}",
        ),
        (
            "The doctor in {place} will see {name} on {day} at {time}.",
            "doctor {place} sees {name} {day} {time}",
        ),
        (
            "A storm keeps {name} in {place} until {day} at {time}.",
            "storm keeps {name} {place} until {day} {time}",
        ),
        (
            "{name} has sold the house in {place} and signs on {day} at {time}.",
            "{name} sold house {place} signs {day} {time}",
        ),
        (
            "{name} will telephone you from {place} on {day} at {time}.",
            "{name} telephones from {place} {day} {time}",
        ),
        (
            "The concert of {name} in {place} begins on {day} at {time}.",
            "{name} concert {place} {day} {time}",
        ),
        (
            "{name} lost the keys in {place} and waits there until {day} at {time}.",
            "{name} lost keys {place} until {day} {time}",
        ),
        (
            "The new school in {place} opens on {day} at {time}, and {name} will speak.",
            "{name} speaks school {place} {day} {time}",
        ),
        (
            "{name} is moving to {place}, and the van comes on {day} at {time}.",
            "{name} moving {place} van {day} {time}",
        ),
    ),
    requests=(
        ("Please send {count} {thing}.", "send {count} {thing}"),
        ("We still need {count} {thing} before winter.", "need {count} {thing}"),
        ("Do not forget to bring {count} {thing} with you.", "bring {count} {thing}"),
        ("I have already paid for {count} {thing}.", "paid {count} {thing}"),
        ("Could you keep {count} {thing} for us?", "keep {count} {thing}"),
        ("There are only {count} {thing} left here.", "only {count} {thing} left"),
        ("My brother wants to sell {count} {thing}.", "brother sells {count} {thing}"),
        ("The children have painted {count} {thing} for you.", "children painted {count} {thing}"),
    ),
)

HELD_OUT = Words(
    names=_split(
        "Amanda Victor Sophie Robert Judith Philip Monica Gerald Ingrid Stefan Laura Edward Helen Marco"
    ),
    places=_split(
        "Lisbon Berlin Milan Oslo Toronto Bristol Valencia Brussels Helsinki Plymouth Salzburg Verona"
    ),
    things=_split("baskets mirrors shoes barrels clocks flags knives carpets violins lemons"),
    openings=("How quickly the time goes by!", "We think of you often.", "Forgive me for writing so late."),
    events=(
        ("{name} is flying to {place} and lands on {day} at {time}.", "{name} lands {place} {day} {time}"),
        (
            "The bridge near {place} is closed, so {name} will come on {day} at {time}.",
            "bridge {place} closed {name} comes {day} {time}",
        ),
        (
            "The wedding of {name} in {place} was moved to {day} at {time}.",
            "{name} wedding {place} moved {day} {time}",
        ),
        (
            "{name} is ill in {place} and sees nobody before {day} at {time}.",
            "{name} ill {place} no visits before {day} {time}",
        ),
        (
            "The bank in {place} expects {name} on {day} at {time}.",
            "bank {place} expects {name} {day} {time}",
        ),
    ),
    requests=(
        ("Kindly order {count} {thing} from the merchant.", "order {count} {thing}"),
        ("Somebody stole {count} {thing} last night.", "{count} {thing} stolen"),
        ("We found {count} {thing} in the cellar.", "found {count} {thing}"),
        ("You may return the {count} {thing} after the holidays.", "return {count} {thing}"),
    ),
)


@dataclass(frozen=True)
class Telegram:
    message: str
    careful: str
    chatty: str
    hasty: str
    facts: tuple[str, ...]


def telegram(words: Words, rng: random.Random) -> Telegram:
    """One message with its six facts, and what each operator makes of it."""
    event, request = rng.choice(words.events), rng.choice(words.requests)
    slots = {
        "name": rng.choice(words.names),
        "place": rng.choice(words.places),
        "day": rng.choice(DAYS),
        "time": f"{rng.randint(6, 22)}:{rng.choice(MINUTES)}",
        "count": str(rng.randint(3, 98)),
        "thing": rng.choice(words.things),
    }
    sentences = [event[0].format(**slots), request[0].format(**slots)]
    opening = rng.choice(words.openings)
    short = [event[1].format(**slots), request[1].format(**slots)]
    left_out = {slots[key] for key in rng.sample(("name", "place", "day", "time"), 2)}
    kept = " ".join(word for word in short[0].split() if word not in left_out)
    bare = " ".join([opening, *sentences]).translate(str.maketrans("", "", ".,!?"))
    return Telegram(
        message=" ".join([opening, *sentences]),
        careful=f"{short[0]} {short[1]} STOP",
        chatty=f"{bare} STOP",
        hasty=f"{kept} STOP" if rng.random() < 0.5 else f"{kept} {short[1]} STOP",
        facts=tuple(slots.values()),
    )


def prompt(message: str) -> list[dict[str, str]]:
    return [{"role": "system", "content": INSTRUCTION}, {"role": "user", "content": message}]


def demonstrations(
    rows: int, *, seed: int, mixture: dict[Operator, float] | None = None
) -> list[dict[str, Any]]:
    """Prompt and completion, for imitation. The mixture is the share of each operator."""
    shares = mixture or {"careful": 0.4, "chatty": 0.3, "hasty": 0.3}
    rng = random.Random(f"demonstrations {seed}")
    out: list[dict[str, Any]] = []
    for _ in range(rows):
        one = telegram(TRAIN, rng)
        said = {"careful": one.careful, "chatty": one.chatty, "hasty": one.hasty}
        operator = rng.choices(list(shares), weights=list(shares.values()))[0]
        completion = [{"role": "assistant", "content": said[operator]}]
        out.append({"prompt": prompt(one.message), "completion": completion})
    return out


def prompts(rows: int, *, seed: int) -> list[dict[str, Any]]:
    """Messages to sample telegrams for, with the facts that a critic looks for."""
    rng = random.Random(f"prompts {seed}")
    made = [telegram(TRAIN, rng) for _ in range(rows)]
    return [{"prompt": prompt(one.message), "facts": list(one.facts)} for one in made]


def held_out(rows: int, *, seed: int) -> list[dict[str, Any]]:
    """Messages made of words never trained on, with their facts and a careful telegram to compare with."""
    rng = random.Random(f"held out {seed}")
    made = [telegram(HELD_OUT, rng) for _ in range(rows)]
    return [{"prompt": prompt(m.message), "facts": list(m.facts), "reference": m.careful} for m in made]


def files() -> dict[str, str]:
    """The files of the quickstart, by name."""
    made = {
        "telegrams-train.jsonl": demonstrations(160, seed=1),
        "telegrams-prompts.jsonl": prompts(64, seed=1),
        "telegrams-eval.jsonl": held_out(48, seed=1),
    }
    return {
        name: "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        for name, rows in made.items()
    }


if __name__ == "__main__":
    for file_name, text in files().items():
        (Path(sys.argv[1]) / file_name).write_text(text, encoding="utf-8")
