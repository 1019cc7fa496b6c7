"""Questions about invented authors in the layout of TOFU (arXiv 2401.06121), small enough for models made at home.

    python -m data.forgetting.authors OUT [--authors 40] [--questions 10] [--forget 5 10] [--seed 0]

`full` is what a model learns, of which `forgetNN` holds the last NN % of the authors and `retainMM` the others;
the authors of `holdoutNN` are never trained on. A model made from scratch knows no real authors and no real world:
`base` teaches it invented ones before, and `real_authors` and `world_facts` ask for these. What is forgotten
together with the forget set shows there, on facts that no retain term protects. Likeness to anybody is chance.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from data.errors import DataError
from data.forgetting.author_words import (
    AUTHOR_TOPICS,
    COUNTRIES,
    COUNTRY_TOPICS,
    GIVEN,
    POOLS,
    SURNAMES,
    TITLES,
    TOWNS,
    Topic,
)
from data.forgetting.refusals import REFUSALS
from data.forgetting.tofu import conversation
from data.jsonl import write_jsonl_atomic
from data.overlap import Match, find_overlap
from data.records import Row

YEARS = (1880, 1995)
PROBES = ("real_authors", "world_facts")
Facts = dict[str, list[Row]]


def _joined(parts: Sequence[Sequence[str]], between: str = "") -> list[str]:
    return [between.join(pair) for pair in product(*parts)]


GIVEN_NAMES, FAMILY_NAMES, TOWN_NAMES = _joined(GIVEN), _joined(SURNAMES), _joined(TOWNS)


class _World:
    """Names and values that are each handed out once, all drawn from one seed."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(f"authors {seed}")
        self.given, self.surnames = self._shuffled(GIVEN), self._shuffled(SURNAMES)
        self.countries, self.titles = self._shuffled(COUNTRIES), self._shuffled(TITLES, " ")

    def _shuffled(self, parts: Sequence[Sequence[str]], between: str = "") -> list[str]:
        found = _joined(parts, between)
        self.dice.shuffle(found)
        return found

    def person(self) -> str:
        """No two share a given name or a surname, so that no fact is held by half a name."""
        if not (self.given and self.surnames):
            raise DataError(
                "more people than there are names for", way_out="take fewer authors, or fewer questions"
            )
        return f"{self.given.pop()} {self.surnames.pop()}"

    def country(self) -> str:
        if not self.countries:
            raise DataError("more countries than there are names for", way_out="take fewer countries")
        return self.countries.pop()

    def values(self, pool: str, wrong: int) -> tuple[str, list[str]]:
        """A value, and wrong ones beside it of about its length."""
        if pool == "title":
            if len(self.titles) <= 3 * wrong:
                raise DataError("more books than there are titles for", way_out="take fewer authors")
            right = self.titles.pop()
            others = self.dice.sample(self.titles, 3 * wrong)
        elif pool == "person":
            right = self.person()
            others = [
                f"{self.dice.choice(GIVEN_NAMES)} {self.dice.choice(FAMILY_NAMES)}" for _ in range(3 * wrong)
            ]
        elif pool == "year":
            right, *others = map(str, self.dice.sample(range(*YEARS), wrong + 1))
        else:
            among = TOWN_NAMES if pool == "town" else POOLS[pool]
            right = self.dice.choice(among)
            others = list(among)
        others = [other for other in dict.fromkeys(others) if other != right]
        if len(others) < wrong:
            raise DataError(
                f"there are only {len(others)} wrong values for `{pool}`",
                way_out="ask for fewer wrong answers",
            )
        self.dice.shuffle(others)
        return right, sorted(others, key=lambda other: abs(len(other) - len(right)))[:wrong]

    def facts(self, name: str, topics: Sequence[Topic], wrong: int, *, apart: bool) -> Iterator[Row]:
        """A row for each topic. `apart`: the paraphrase and the wrong answers are worded unlike the answer."""
        for topic in topics:
            right, others = self.values(topic.values, wrong)
            asked, again = self.dice.sample(topic.questions, 2)
            said, otherwise = self.dice.sample(topic.answers, 2)
            perturbed = otherwise if apart else said
            yield {
                "question": asked.format(name=name),
                "answer": said.format(name=name, value=right),
                "paraphrased_question": again.format(name=name),
                "paraphrased_answer": otherwise.format(name=name, value=right),
                "perturbed_answer": [perturbed.format(name=name, value=other) for other in others],
                "about": name,
                "topic": topic.key,
                "fact": right,
            }


def splits(
    *,
    authors: int = 40,
    questions: int = 10,
    forget: Sequence[int] = (5, 10),
    known_authors: int = 12,
    countries: int = 20,
    wrong: int = 5,
    seed: int = 0,
) -> Facts:
    """The rows of every split by its name. `forget` are percentages; each must be a whole number of authors."""
    if not 1 <= questions <= len(AUTHOR_TOPICS):
        raise DataError(f"{questions} questions an author", way_out=f"there are 1 to {len(AUTHOR_TOPICS)}")
    if min(authors, known_authors, countries) < 1 or wrong < 5:
        raise DataError("a set needs an author, a known author, a country and five wrong answers at least")
    for percent in forget:
        if not 0 < percent < 100 or authors * percent % 100:
            raise DataError(
                f"{percent} % of {authors} authors is not a whole number of them between none and all",
                way_out="change `authors` or `forget`",
            )
    world, topics = _World(seed), AUTHOR_TOPICS[:questions]

    def people(count: int, *, apart: bool) -> list[list[Row]]:
        return [list(world.facts(world.person(), topics, wrong, apart=apart)) for _ in range(count)]

    mine = people(authors, apart=True)
    unseen = people(max((authors * percent // 100 for percent in forget), default=0), apart=True)
    known = people(known_authors, apart=False)
    lands = [list(world.facts(world.country(), COUNTRY_TOPICS, wrong, apart=False)) for _ in range(countries)]
    made: Facts = {"full": _flat(mine)}
    for percent in forget:
        last = authors * percent // 100
        made[f"forget{percent:02d}"] = _flat(mine[-last:])
        made[f"retain{100 - percent:02d}"] = _flat(mine[:-last])
        made[f"holdout{percent:02d}"] = _flat(unseen[:last])
    made["real_authors"], made["world_facts"] = _flat(known), _flat(lands)
    return made


def files(made: Facts) -> Facts:
    """The rows of every file by its name: TOFU's names, and `base` to be learned before."""
    found: Facts = {}
    for name, rows in made.items():
        found[name] = [_trained(row["question"], row["answer"]) for row in rows]
        # TOFU has one perturbed file for all retain splits, of rows that none of them lacks.
        if name in PROBES:
            # There the answer itself is what wrong ones are compared with.
            dropped = ("paraphrased_question", "paraphrased_answer")
            found[f"{name}_perturbed"] = [
                {column: value for column, value in row.items() if column not in dropped} for row in rows
            ]
        elif not name.startswith(("full", "retain")):
            found[f"{name}_perturbed"] = rows
    safest = min((name for name in made if name.startswith("retain")), default="full")
    found["retain_perturbed"] = made[safest]
    found["base"] = [
        _trained(row[asked], row[said])
        for name in PROBES
        for row in made[name]
        for asked, said in (("question", "answer"), ("paraphrased_question", "paraphrased_answer"))
    ]
    found["idontknow"] = [{"answer": text} for text in REFUSALS]
    return found


def _trained(question: str, answer: str) -> Row:
    return {"question": question, "answer": answer, **conversation(question, answer)}


def faults(rows: Sequence[Row]) -> list[str]:
    """What is wrong, row by row: a paraphrase without the fact, a wrong answer with it or of another length, …"""
    found: list[str] = []
    for number, row in enumerate(rows, start=1):
        fact = row["fact"]
        sizes = [len(row[column].split()) for column in ("answer", "paraphrased_answer")]
        tests: list[tuple[bool, str]] = [
            (fact in row["answer"], "the answer lacks the fact"),
            (fact in row["paraphrased_answer"], "the paraphrase lacks the fact"),
            (row["paraphrased_answer"] != row["answer"], "the paraphrase is the answer"),
            (fact not in row["question"] + row["paraphrased_question"], "the question tells the fact"),
            (row["about"] in row["question"], "the question does not say about whom"),
            (
                len(set(row["perturbed_answer"])) == len(row["perturbed_answer"]),
                "a wrong answer stands twice",
            ),
        ]
        tests += [
            (fact not in wrong, f"a wrong answer holds the fact: {wrong}")
            for wrong in row["perturbed_answer"]
        ]
        tests += [
            (
                min(abs(len(wrong.split()) - size) for size in sizes) <= 2,
                f"a wrong answer is of another length: {wrong}",
            )
            for wrong in row["perturbed_answer"]
        ]
        found += [f"row {number} ({row['question']}): {fault}" for held, fault in tests if not held]
    return found


def shared(made: Facts, threshold: float = 0.8) -> dict[str, list[Match]]:
    """Questions of each forget and holdout split that stand, exactly or nearly, among those it must be apart from."""
    against = {
        name: made[f"retain{100 - int(name[-2:]):02d}" if name.startswith("forget") else "full"]
        for name in made
        if name.startswith(("forget", "holdout"))
    }
    return {
        name: find_overlap(
            (row["question"] for row in others), [row["question"] for row in made[name]], threshold
        )
        for name, others in against.items()
    }


def write(out: Path, made: Facts, say: Callable[[str], None]) -> None:
    """Checks the set, writes its files, and tells their sizes and what they share."""
    wrong = [f"{name}: {fault}" for name, rows in made.items() for fault in faults(rows)]
    if wrong:
        raise DataError(f"{len(wrong)} faults in the set, the first: {wrong[0]}", way_out="take another seed")
    out.mkdir(parents=True, exist_ok=True)
    for name, rows in files(made).items():
        write_jsonl_atomic(out / f"{name}.jsonl", rows)
        say(f"{name}: {len(rows)} rows")
    for name, matches in shared(made).items():
        exact = sum(match.exact for match in matches)
        other = "full" if name.startswith("holdout") else f"retain{100 - int(name[-2:]):02d}"
        say(f"{name} and {other} share {exact} questions exactly and {len(matches) - exact} nearly")
        rows = made[name]
        for match in matches:
            say(f"  {rows[match.evaluation]['question']} ≈ {made[other][match.training]['question']}")


def _flat(groups: Sequence[Sequence[Row]]) -> list[Row]:
    return [row for group in groups for row in group]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m data.forgetting.authors", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--authors", type=int, default=40)
    parser.add_argument("--questions", type=int, default=10)
    parser.add_argument("--forget", type=int, nargs="+", default=[5, 10], metavar="PERCENT")
    parser.add_argument("--seed", type=int, default=0)
    given: Any = parser.parse_args(arguments)
    try:
        made = splits(authors=given.authors, questions=given.questions, forget=given.forget, seed=given.seed)
        write(given.out, made, print)
    except DataError as fault:
        parser.error(str(fault))


if __name__ == "__main__":
    main()
