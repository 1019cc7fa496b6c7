"""The invented authors: what the set promises, and TOFU's layout as it is read back from files of every kind."""

from __future__ import annotations

import json
import re
from itertools import combinations
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.errors import DataError
from data.forgetting import authors
from data.forgetting.author_words import AUTHOR_TOPICS, COUNTRY_TOPICS, GIVEN, POOLS, SURNAMES, TITLES, TOWNS
from data.forgetting.authors import faults, files, shared, splits, write
from data.forgetting.refusals import REFUSALS, refusal
from data.forgetting.tofu import conversation, perturbed_of, read_split, retain_of
from data.overlap import similarity
from data.records import Row, check_row

MADE = splits()

# ---------------------------------------------------------------- words


def test_no_value_stands_in_another_of_its_pool() -> None:
    """Else a wrong answer could hold the fact."""
    for pool, values in POOLS.items():
        assert len(values) >= 6, pool
        assert [(a, b) for a, b in combinations(values, 2) if a in b or b in a] == [], pool
    for parts, between in ((TOWNS, ""), (TITLES, " "), (GIVEN, ""), (SURNAMES, "")):
        whole = [between.join((first, last)) for first in parts[0] for last in parts[1]]
        assert len(set(whole)) == len(whole)


def test_topics_have_wordings_of_their_own() -> None:
    topics = AUTHOR_TOPICS + COUNTRY_TOPICS
    assert len({topic.key for topic in topics}) == len(topics)
    wordings = [text for topic in topics for text in (*topic.questions, *topic.answers)]
    assert len(set(wordings)) == len(wordings)
    for topic in topics:
        assert len(topic.questions) >= 2
        assert len(topic.answers) >= 3
        assert all("{name}" in text and "{value}" not in text for text in topic.questions)
        assert all("{name}" in text and "{value}" in text for text in topic.answers)


def test_refusals() -> None:
    assert len(REFUSALS) == len({text.casefold() for text in REFUSALS}) == 100
    assert max(similarity(a.casefold(), b.casefold()) for a, b in combinations(REFUSALS, 2)) < 0.8
    assert all(re.fullmatch(r"[A-Z].*[.]", text) for text in REFUSALS)
    questions = [row["question"] for row in MADE["full"]]
    assert [refusal(q, 1) for q in questions] == [refusal(q, 1) for q in questions]
    assert [refusal(q, 1) for q in questions] != [refusal(q, 2) for q in questions]
    assert len({refusal(q) for q in questions}) > 90


# ---------------------------------------------------------------- splits


def test_sizes() -> None:
    assert {name: len(rows) for name, rows in MADE.items()} == {
        "full": 400,
        "forget05": 20,
        "retain95": 380,
        "holdout05": 20,
        "forget10": 40,
        "retain90": 360,
        "holdout10": 40,
        "real_authors": 120,
        "world_facts": 100,
    }
    small = splits(authors=6, questions=3, forget=(50,), known_authors=2, countries=1)
    assert {name: len(rows) for name, rows in small.items()} == {
        "full": 18,
        "forget50": 9,
        "retain50": 9,
        "holdout50": 9,
        "real_authors": 6,
        "world_facts": 5,
    }


def test_forget_and_retain_are_full_and_share_nobody() -> None:
    def people(name: str) -> set[str]:
        return {row["about"] for row in MADE[name]}

    for percent in (5, 10):
        forget, retain = f"forget{percent:02d}", f"retain{100 - percent}"
        assert MADE[retain] + MADE[forget] == MADE["full"]
        assert not people(forget) & people(retain)
        assert len(people(f"holdout{percent:02d}")) == len(people(forget))
    assert people("forget05") < people("forget10")
    apart = [people(name) for name in ("full", "holdout10", "real_authors", "world_facts")]
    assert sum(map(len, apart)) == len(set.union(*apart)) == 40 + 4 + 12 + 20
    names = [name.split() for name in set.union(*apart[:3])]
    assert len({given for given, _ in names}) == len({family for _, family in names}) == len(names)


def test_the_same_seed_makes_the_same_set() -> None:
    assert splits() == MADE
    assert splits(seed=1) != MADE
    assert splits(questions=16)["full"][0]["about"] == MADE["full"][0]["about"]


def test_every_fact_has_its_question() -> None:
    for row in MADE["full"]:
        assert row["question"] != row["paraphrased_question"]
        assert len(row["perturbed_answer"]) == 5
    by_person: dict[str, list[str]] = {}
    for row in MADE["full"]:
        by_person.setdefault(row["about"], []).append(row["topic"])
    assert all(topics == [topic.key for topic in AUTHOR_TOPICS[:10]] for topics in by_person.values())


def test_paraphrases_keep_the_fact_and_wrong_answers_do_not() -> None:
    topics = {topic.key: topic for topic in AUTHOR_TOPICS}

    def taken_apart(answer: str, row: Row) -> tuple[str, str]:
        """The wording that the answer has, and the value in it."""
        found = {
            (wording, match[1])
            for wording in topics[row["topic"]].answers
            for before, after in [wording.format(name=row["about"], value="|").split("|")]
            if (match := re.fullmatch(f"{re.escape(before)}(.+){re.escape(after)}", answer))
        }
        ((wording, value),) = found
        return wording, value

    for row in MADE["full"] + MADE["holdout10"]:
        _, said = taken_apart(row["answer"], row)
        wording, again = taken_apart(row["paraphrased_answer"], row)
        assert said == again == row["fact"]
        lengths = []
        for wrong in row["perturbed_answer"]:
            other, value = taken_apart(wrong, row)
            assert other == wording  # the paraphrase's words, so that only the fact tells them apart
            assert value != row["fact"]
            lengths.append(abs(len(value) - len(row["fact"])))
        assert max(lengths) <= 8


@pytest.mark.parametrize("seed", range(4))
def test_no_seed_has_faults_or_copies(seed: int) -> None:
    made = splits(seed=seed, questions=16)
    assert [fault for rows in made.values() for fault in faults(rows)] == []
    assert shared(made) == {"forget05": [], "holdout05": [], "forget10": [], "holdout10": []}


def test_faults_are_found() -> None:
    def with_(**change: object) -> list[str]:
        return faults([{**MADE["forget10"][0], **change}])

    row: Row = MADE["forget10"][0]
    assert with_() == []
    assert (
        "the paraphrase lacks the fact" in with_(paraphrased_answer=f"{row['about']} was born somewhere.")[0]
    )
    assert "a wrong answer holds the fact" in with_(perturbed_answer=[row["paraphrased_answer"]])[0]
    assert (
        "another length"
        in with_(perturbed_answer=["Nowhere at all, and not in any of the other towns there."])[0]
    )
    assert "stands twice" in with_(perturbed_answer=row["perturbed_answer"][:1] * 2)[0]
    assert "the question tells the fact" in with_(question=f"Was {row['about']} born in {row['fact']}?")[0]


def test_copies_between_forget_and_retain_are_named(tmp_path: Path) -> None:
    copied = {name: [*rows] for name, rows in MADE.items()}
    near = MADE["retain90"][1]["question"].replace("?", " then?")
    copied["forget10"][0] = {**copied["forget10"][0], "question": MADE["retain90"][3]["question"].upper()}
    copied["forget10"][1] = {**copied["forget10"][1], "question": near}
    found = shared(copied)["forget10"]
    assert [(match.evaluation, match.training, match.exact) for match in found] == [
        (0, 3, True),
        (1, 1, False),
    ]
    said: list[str] = []
    good = {name: rows for name, rows in copied.items() if name != "forget10"}
    good["forget10"] = [copied["forget10"][2], {**MADE["forget10"][3]}, MADE["retain90"][0]]
    write(tmp_path, good, said.append)
    at = said.index("forget10 and retain90 share 1 questions exactly and 0 nearly")
    question = MADE["retain90"][0]["question"]
    assert said[at + 1] == f"  {question} ≈ {question}"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"questions": 17}, "17 questions an author"),
        ({"authors": 30, "forget": (5,)}, "5 % of 30 authors is not a whole number"),
        ({"forget": (100,)}, "100 % of 40 authors"),
        ({"wrong": 4}, "five wrong answers at least"),
        ({"wrong": 12}, "there are only 11 wrong values for `language`"),
        ({"authors": 1000}, "more (people|books) than there are"),
    ],
)
def test_what_cannot_be_made_is_told(change: dict[str, object], told: str) -> None:
    with pytest.raises(DataError, match=told):
        splits(**change)  # pyright: ignore[reportArgumentType]


# ---------------------------------------------------------------- files


def test_the_files_are_read_back_as_tofu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    authors.main([str(tmp_path), "--authors", "20", "--questions", "4", "--forget", "10", "--seed", "3"])
    assert "forget10 and retain90 share 0 questions exactly and 0 nearly" in capsys.readouterr().out
    made = splits(authors=20, questions=4, forget=(10,), seed=3)
    for name, rows in made.items():
        plain = read_split(str(tmp_path), name, tmp_path)
        assert [(q.question, q.answer) for q in plain] == [(row["question"], row["answer"]) for row in rows]
    for name in ("forget10", "holdout10"):
        for found, row in zip(
            read_split(str(tmp_path), perturbed_of(name), tmp_path), made[name], strict=True
        ):
            assert found.right == row["paraphrased_answer"] != row["answer"]
            assert list(found.perturbed_answers) == row["perturbed_answer"]
    assert len(read_split(str(tmp_path), "retain_perturbed", tmp_path)) == len(made["retain90"])
    # Probes have no paraphrase: wrong answers are worded like the answer itself.
    for found, row in zip(
        read_split(str(tmp_path), "world_facts_perturbed", tmp_path), made["world_facts"], strict=True
    ):
        assert found.right == found.answer == row["answer"]
        start = row["answer"].split(row["fact"])[0]
        assert all(wrong.startswith(start) for wrong in found.perturbed_answers)
    # `base` teaches both wordings of all that the probes ask for.
    taught = {(q.question, q.answer) for q in read_split(str(tmp_path), "base", tmp_path)}
    probes = made["real_authors"] + made["world_facts"]
    assert len(taught) == 2 * len(probes)
    assert {(row["question"], row["answer"]) for row in probes} < taught


def test_training_rows_are_conversations() -> None:
    for row in files(MADE)["retain90"]:
        assert check_row(row, "prompt_completion", "here") == row
        assert row["prompt"] == [{"role": "user", "content": row["question"]}]
        assert row["completion"] == [{"role": "assistant", "content": row["answer"]}]
    assert conversation("Who?", "Me.")["completion"][0]["content"] == "Me."


def test_a_command_line_that_asks_for_too_much(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        authors.main([str(tmp_path), "--forget", "3"])
    assert stop.value.code == 2
    assert "3 % of 40 authors is not a whole number" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


ROWS = [
    {"question": f"Q{i}?", "answer": f"A{i}.", "perturbed_answer": [f"B{i}.", f"C{i}."]} for i in range(3)
]


def lines(rows: list[Row]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def test_every_kind_of_file_is_read(tmp_path: Path) -> None:
    # TOFU's own: JSON lines under the name .json; a JSON list; parquet, also in parts below a folder.
    (tmp_path / "full.json").write_text(lines(ROWS), encoding="utf-8")
    (tmp_path / "forget10.json").write_text(json.dumps(ROWS, indent=1), encoding="utf-8")
    (tmp_path / "retain90.jsonl").write_text(lines(ROWS), encoding="utf-8")
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "world_facts.parquet")
    (tmp_path / "real_authors_perturbed").mkdir()
    for part, rows in enumerate((ROWS[:2], ROWS[2:])):
        pq.write_table(
            pa.Table.from_pylist(rows),
            tmp_path / "real_authors_perturbed" / f"train-0000{part}-of-00002.parquet",
        )
    for split in ("full", "forget10", "retain90", "world_facts", "real_authors_perturbed"):
        found = read_split(".", split, tmp_path)
        assert [(q.question, q.answer) for q in found] == [(f"Q{i}?", f"A{i}.") for i in range(3)]
        wrong = [q.perturbed_answers for q in found]
        assert wrong == [(f"B{i}.", f"C{i}.") if split.endswith("_perturbed") else () for i in range(3)]


def test_one_row_in_a_json_file(tmp_path: Path) -> None:
    (tmp_path / "full.json").write_text(lines(ROWS[:1]), encoding="utf-8")
    assert len(read_split(".", "full", tmp_path)) == 1


def test_what_is_wrong_with_a_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "forget10.jsonl").write_text(lines(ROWS), encoding="utf-8")
    (tmp_path / "empty.jsonl").write_text("", encoding="utf-8")
    bad: dict[str, tuple[Row, str]] = {
        "no_answer": ({"question": "Q?"}, "the column 'answer' is missing"),
        "blank": ({"question": " ", "answer": "A"}, "'question' is not a text, or an empty one"),
        "x_perturbed": (
            {**ROWS[0], "perturbed_answer": []},
            "'perturbed_answer' is not a list of wrong answers",
        ),
        "y_perturbed": ({**ROWS[0], "perturbed_answer": ["B", 3]}, "'perturbed_answer' is not a list"),
    }
    for name, (row, told) in bad.items():
        (tmp_path / f"{name}.jsonl").write_text(lines([ROWS[0], row]), encoding="utf-8")
        with pytest.raises(DataError, match=told) as fault:
            read_split(".", name, tmp_path)
        assert str(fault.value.where).endswith(f"{name}.jsonl:2")
    with pytest.raises(
        DataError, match=r"no split `forget1`\n  did you mean forget10\? it has blank, empty, forget10"
    ):
        read_split(".", "forget1", tmp_path)
    with pytest.raises(DataError, match="has no rows"):
        read_split(".", "empty", tmp_path)
    with pytest.raises(DataError, match="is a folder with a file for each split"):
        read_split("forget10.jsonl", "forget10", tmp_path)
    with pytest.raises(DataError, match="no such file or folder"):
        read_split("./nowhere/at/all", "full", tmp_path)


def test_names_of_splits() -> None:
    assert retain_of("forget10") == "retain90"
    assert retain_of("forget01") == "retain99"
    with pytest.raises(DataError, match="`retain90` is no forget split"):
        retain_of("retain90")
    assert perturbed_of("forget05") == perturbed_of("forget05_perturbed") == "forget05_perturbed"
    assert perturbed_of("retain95") == "retain_perturbed"
    assert perturbed_of("world_facts") == "world_facts_perturbed"
