"""Import and export: round trips, the formats as their owners write them, and files that mean harm."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from data.errors import UserError
from data.feedback import tables
from data.feedback.assignment import Nothing, next_item
from data.feedback.exchange import export_rows
from data.feedback.exchange_argilla import import_argilla, person_uuid, to_argilla, to_argilla_flat
from data.feedback.exchange_files import (
    export_dataset,
    export_jsonl,
    export_parquet,
    import_dataset,
    import_jsonl,
)
from data.feedback.exchange_label_studio import import_label_studio, to_label_studio
from data.feedback.results import Judgements, judgements, preference_pairs
from data.feedback.stages import Stage, StageSettings, create_stage, get_stage
from data.feedback.store import Store
from data.formats import read_file
from tests import labelling
from tests.labelling import check_counters, rows

location, sqlite, store = labelling.location, labelling.sqlite, labelling.store
EVERY = ("choose", "best", "rank", "tie", "skip", "flag", "edit")

VOTES: list[dict[str, Any]] = [
    {
        "person": "Ada",
        "kind": "best",
        "choice": 1,
        "strength": 2,
        "comment": "shorter",
        "seconds": 3.5,
        "at": 1000.0,
    },
    {"person": "Bob", "kind": "tie", "at": 1001.0},
    {"person": "Cy", "kind": "skip", "at": 1002.0},
]
ITEMS: list[dict[str, Any]] = [
    {
        "id": "pair",
        "prompt": "Say.",
        "candidates": [{"text": "one", "logprob": -1.5}, {"text": "two"}],
        "votes": VOTES,
    },
    {
        "id": "three",
        "prompt": [{"role": "user", "content": "Höher \U0001f600"}],
        "candidates": [{"text": "a"}, {"text": "b"}, {"text": "c"}],
        "image": "x.png",
        "scores": {"rubric": [0.5, None, 1.0]},
        "iteration": 3,
        "votes": [
            {"person": "Ada", "kind": "rank", "choice": [2, 1, 2], "at": 1003.0},
            {"person": "Bob", "kind": "choose", "choice": [0, 2], "at": 1004.0},
            {"person": "Cy", "kind": "rank", "choice": [3, 1, 2], "at": 1005.0, "shown": [2, 0, 1]},
            {"person": "Dee", "kind": "edit", "edit": {"text": "better", "candidate": 2}, "at": 1006.0},
        ],
    },
    {"id": "gold", "prompt": "2 + 2", "candidates": ["3", "4"], "gold": 1},
]


def a_file(folder: Path, lines: list[Any], name: str = "items.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def filled(store: Store, folder: Path, name: str = "stage") -> Stage:
    stage = create_stage(store, name, StageSettings(kinds=EVERY, overlap=2, gold_rate=0.0))
    import_jsonl(store, stage.id, a_file(folder, ITEMS))
    return stage


def said(of: Judgements) -> dict[str, list[tuple[Any, ...]]]:
    return {
        item.key: sorted(
            (of.names[v.person_id], v.kind, v.choice, v.strength, v.comment) for v in of.of(item)
        )
        for item in of.items
    }


def test_jsonl_there_and_back(store: Store, tmp_path: Path) -> None:
    stage = create_stage(store, "stage", StageSettings(kinds=EVERY, overlap=2))
    found = import_jsonl(store, stage.id, a_file(tmp_path, ITEMS))
    assert (found.items, found.votes, found.people) == (3, 7, ["Ada", "Bob", "Cy", "Dee"])
    check_counters(store, stage)
    # Two votes on the pair count, three and one edit on the three: both are done.
    assert get_stage(store, stage.id).done == 2
    first = list(export_rows(judgements(store, stage.id, gold=True)))
    assert first[0]["votes"][0] | {"edit": None} == {**VOTES[0], "shown": [0, 1], "edit": None}
    assert first[1]["prompt"][0]["content"] == "Höher \U0001f600"
    assert (first[1]["iteration"], first[1]["scores"]) == (3, {"rubric": [0.5, None, 1.0]})
    assert first[1]["votes"][2]["shown"] == [2, 0, 1]
    assert first[1]["votes"][3]["edit"] == {"text": "better", "candidate": 2}
    assert first[2]["gold"] == {"kind": "best", "choice": 1}
    assert export_jsonl(judgements(store, stage.id, gold=True), tmp_path / "out.jsonl") == 3
    second = create_stage(store, "second", StageSettings(kinds=EVERY, overlap=2))
    import_jsonl(store, second.id, tmp_path / "out.jsonl")
    assert list(export_rows(judgements(store, second.id, gold=True))) == first


def test_imported_items_go_on_being_labelled(store: Store, tmp_path: Path) -> None:
    stage = create_stage(store, "stage", StageSettings(overlap=2, gold_rate=0.0))
    import_jsonl(store, stage.id, a_file(tmp_path, [{**ITEMS[0], "votes": VOTES[:1]}]))
    with store.write() as connection:
        connection.execute(tables.people.update().values(active=True))
    ada, bob = rows(store, tables.people)[0].id, labelling.annotators(store, 1)[0]
    assert isinstance(next_item(store, stage.id, ada), Nothing)
    assert labelling.given(store, stage, bob).key == "pair"


def test_pairs_become_items(sqlite: Store, tmp_path: Path) -> None:
    stage = create_stage(sqlite, "stage")
    talk = [{"role": "user", "content": "Hi"}]
    lines = [
        {"prompt": "p", "chosen": "c", "rejected": "r", "score_chosen": 0.9, "score_rejected": 0.1},
        {
            "prompt": talk,
            "chosen": [{"role": "assistant", "content": "x"}],
            "rejected": [{"role": "assistant", "content": "y"}],
        },
    ]
    import_jsonl(sqlite, stage.id, a_file(tmp_path, lines))
    one, other = judgements(sqlite, stage.id).items
    assert (one.key, one.texts, one.scores) == ("row 1", ["c", "r"], {"given": [0.9, 0.1]})
    assert (other.prompt, other.texts) == (talk, ["x", "y"])


def test_pairs_that_were_exported_come_back(sqlite: Store, tmp_path: Path) -> None:
    """Three candidates make several pairs of one id, and an edit one more."""
    stage = create_stage(sqlite, "stage", StageSettings(kinds=EVERY))
    wrote = {"text": "better than b", "candidate": 1}
    said = {"person": "Ada", "kind": "rank", "choice": [1, 2, 3], "edit": wrote, "at": 1.0}
    row = {"id": "q", "prompt": "p", "candidates": ["a", "b", "c"], "votes": [said]}
    import_jsonl(sqlite, stage.id, a_file(tmp_path, [row]))
    pairs = list(preference_pairs(judgements(sqlite, stage.id)))
    assert sorted((one["chosen"], one["rejected"]) for one in pairs) == [
        ("a", "b"),
        ("a", "c"),
        ("b", "c"),
        ("better than b", "b"),
    ]
    again = create_stage(sqlite, "again")
    file = a_file(tmp_path, pairs, "pairs.jsonl")
    assert import_jsonl(sqlite, again.id, file).items == 4
    items = judgements(sqlite, again.id).items
    assert [item.key for item in items] == ["q", "q/2", "q/3", "q/4"]
    assert [item.texts for item in items] == [[one["chosen"], one["rejected"]] for one in pairs]
    third = create_stage(sqlite, "third")
    with pytest.raises(UserError, match=r"the id 'q' is already at .*:1"):
        import_jsonl(sqlite, third.id, a_file(tmp_path, [pairs[0], pairs[0]], "twice.jsonl"))


DEEP = '{"id": "d", "prompt": "p", "candidates": ["a"], "x": ' + "[" * 5000 + "]" * 5000 + "}"
LESS_DEEP = '{"id": "d", "prompt": "p", "candidates": ["a"], "x": ' + "[" * 50 + "]" * 50 + "}"


@pytest.mark.parametrize(
    ("line", "what"),
    [
        (b'{"id": "x", "prompt": "p", "candidates": ["a"]', "not JSON at column"),
        (b'{"id": "x", "prompt": "p", "candidates": ["' + b"a" * 5000 + b'"]}', "longer than 4000 bytes"),
        (b'{"id": "x", "prompt": "p\\u0000", "candidates": ["a"]}', "NUL"),
        (b'{"id": "x", "prompt": "\\ud83d", "candidates": ["a"]}', "surrogate"),
        (b'{"id": "x", "prompt": "p", "candidates": ["a"], "\\ud83d": 1}', "surrogate"),
        (b'{"id": "x", "prompt": "p", "candidates": ["a"], "n": NaN}', "NaN is no number"),
        (b'{"id": "x", "prompt": "p", "candidates": ["a"], "n": 1e999}', "inf is no number"),
        (
            b'{"id": "x", "prompt": "p", "candidates": ["a"], "n": ' + b"9" * 3000 + b"}",
            "more than 64 bits",
        ),
        (b'{"id": "x", "id": "y", "prompt": "p", "candidates": ["a"]}', "a name twice"),
        (b'{"id": "x", "prompt": "\xff", "candidates": ["a"]}', "not UTF-8"),
        (b'["id"]', "a JSON list, not an object"),
        (b'{"id": "x\\u0000", "prompt": "p", "candidates": ["a"]}', "NUL"),
        (b'{"prompt": "p", "candidates": ["a"]}', "needs an `id`"),
        (b'{"id": true, "prompt": "p", "candidates": ["a"]}', "needs an `id`"),
        (b'{"id": "x", "candidates": ["a"]}', "needs a `prompt`"),
        (b'{"id": "x", "prompt": 7, "candidates": ["a"]}', "neither text nor a list"),
        (b'{"id": "x", "prompt": [{"role": 1}], "candidates": ["a"]}', "neither text nor a list"),
        (b'{"id": "x", "prompt": "p", "candidates": []}', "has 0 texts"),
        (b'{"id": "x", "prompt": "p", "candidates": "a"}', "is no list"),
        (b'{"id": "x", "prompt": "p", "candidates": [{"t": 1}]}', "candidate 0 has no text"),
        (b'{"id": "x", "prompt": "p", "candidates": ["a"], "image": 7}', "image"),
        (b'{"id": "x", "prompt": "p", "candidates": ["a"], "scores": [1, 2]}', "are not 1 numbers"),
        (b'{"id": "x", "prompt": "p", "candidates": ["a"], "gold": 4}', "gold: the best one is 4"),
        (b'{"id": "x", "prompt": "p", "candidates": ["a"], "gold": {"kind": "skip"}}', "no votes of kind"),
        (b'{"id": "x", "prompt": "p", "candidates": ["a"], "votes": [7]}', "a vote is an object"),
        (
            b'{"id": "x", "prompt": "p", "candidates": ["a"], "votes": [{"person": ""}]}',
            "no name of a person",
        ),
        (
            b'{"id": "x", "prompt": "p", "candidates": ["a"], "votes": [{"person": "A", "kind": "best", "choice": 9}]}',
            "vote 0: the best one is 9",
        ),
        (b'{"id": "fine", "prompt": "p", "candidates": ["a"]}', "already at .*items.jsonl:1"),
        (b'{"prompt": "p", "chosen": 7, "rejected": "r"}', "`chosen` is neither"),
        (b'{"id": "x", "prompt": "p", "candidates": [{"text": ["a"]}]}', "no text"),
    ],
)
def test_hostile_lines_change_nothing(sqlite: Store, tmp_path: Path, line: bytes, what: str) -> None:
    stage = create_stage(sqlite, "stage")
    path = tmp_path / "items.jsonl"
    fine = b'{"id": "fine", "prompt": "p", "candidates": ["a", "b"], "votes": [{"person": "A", "kind": "tie"}]}\n'
    path.write_bytes(fine + b"\n" + line + b"\n")
    with pytest.raises(UserError, match=what) as caught:
        import_jsonl(sqlite, stage.id, path, longest_line=4000)
    assert str(caught.value).startswith(f"{path}:3")
    assert caught.value.way_out
    assert rows(sqlite, tables.items) == rows(sqlite, tables.votes) == rows(sqlite, tables.people) == []


@pytest.mark.parametrize("line", [DEEP, LESS_DEEP], ids=["deep", "less deep"])
def test_deep_nesting_changes_nothing(sqlite: Store, tmp_path: Path, line: str) -> None:
    stage = create_stage(sqlite, "stage")
    (tmp_path / "items.jsonl").write_text(line + "\n")
    with pytest.raises(UserError, match="nested too deeply"):
        import_jsonl(sqlite, stage.id, tmp_path / "items.jsonl")
    assert rows(sqlite, tables.items) == []


def test_an_id_that_the_stage_has_undoes_the_whole_import(store: Store, tmp_path: Path) -> None:
    stage = filled(store, tmp_path)
    before = list(export_rows(judgements(store, stage.id)))
    with pytest.raises(UserError, match="an item 'pair' already"):
        import_jsonl(store, stage.id, a_file(tmp_path, [{**ITEMS[0], "id": "fresh"}, ITEMS[0]], "more.jsonl"))
    assert list(export_rows(judgements(store, stage.id))) == before
    with pytest.raises(UserError, match="no such file"):
        import_jsonl(store, stage.id, tmp_path / "absent.jsonl")
    with pytest.raises(UserError, match="no items"):
        import_jsonl(store, stage.id, a_file(tmp_path, [], "empty.jsonl"))


def test_parquet_and_datasets_folders(sqlite: Store, tmp_path: Path) -> None:
    stage = create_stage(sqlite, "stage", StageSettings(kinds=EVERY))
    import_jsonl(sqlite, stage.id, a_file(tmp_path, ITEMS[:1]))
    pairs = list(preference_pairs(judgements(sqlite, stage.id)))
    assert export_dataset(pairs, tmp_path / "hub") == 1
    from datasets import load_dataset

    loaded = load_dataset(str(tmp_path / "hub"), split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded.column_names[:4] == ["prompt", "chosen", "rejected", "weight"]
    assert loaded[0]["chosen"] == "two"
    # Strength 2 of 3 and a tie: (2/3 + 0) / 2.
    assert loaded[0]["weight"] == pytest.approx(1 / 3)
    second = create_stage(sqlite, "second")
    import_dataset(sqlite, second.id, tmp_path / "hub")
    (item,) = judgements(sqlite, second.id).items
    assert (item.key, item.prompt, item.texts) == ("pair", "Say.", ["two", "one"])
    with pytest.raises(UserError, match="no row to write"):
        export_parquet([], tmp_path / "none.parquet")


def without(of: dict[str, list[tuple[Any, ...]]], *kinds: str) -> dict[str, list[tuple[Any, ...]]]:
    return {key: [vote for vote in votes if vote[1] not in kinds] for key, votes in of.items()}


@pytest.mark.parametrize("form", ["list", "names", "index", "flat", "parquet"])
def test_argilla_there_and_back(sqlite: Store, tmp_path: Path, form: str) -> None:
    of = judgements(sqlite, filled(sqlite, tmp_path).id)
    nested = list(to_argilla(of))
    assert nested[0]["fields"] == {"prompt": "Say.", "response-1": "one", "response-2": "two"}
    assert nested[0]["responses"] == {
        "preference": [
            {"value": "response-2", "user_id": person_uuid("Ada")},
            {"value": "tie", "user_id": person_uuid("Bob")},
        ],
        "strength": [{"value": 2, "user_id": person_uuid("Ada")}],
        "comment": [{"value": "shorter", "user_id": person_uuid("Ada")}],
    }
    assert nested[1]["responses"]["ranking"][0]["value"] == [
        {"rank": 1, "value": "response-2"},
        {"rank": 2, "value": "response-1"},
        {"rank": 2, "value": "response-3"},
    ]
    flat = list(to_argilla_flat(of))
    records: Any = {
        "list": nested,
        "names": {name: [record[name] for record in nested] for name in nested[0]},
        "index": {record["id"]: record for record in nested},
        "flat": flat,
    }.get(form)
    if form == "parquet":
        # A parquet column has one type, so conversations and texts are not mixed.
        export_parquet(flat[:1], tmp_path / "argilla.parquet")
        records = [row for _, row in read_file(tmp_path / "argilla.parquet", "parquet")]
    else:
        records = json.loads(json.dumps(records))
    second = create_stage(sqlite, "second", StageSettings(kinds=EVERY, overlap=2))
    names = {person_uuid(name): name for name in ("Ada", "Bob", "Cy", "Dee")}
    import_argilla(sqlite, second.id, records, "argilla.json", people=names)
    there = without(said(of), "skip", "edit")
    back = said(judgements(sqlite, second.id))
    assert back == ({"pair": there["pair"]} if form == "parquet" else there)


def test_argilla_as_others_use_it(sqlite: Store) -> None:
    """Other names of fields and questions, an ordered list as ranking, a draft that does not count."""
    stage = create_stage(sqlite, "stage")
    record = {
        "id": "r1",
        "instruction": "Do.",
        "chosen": "x",
        "rejected": "y",
        "status": "completed",
        "_server_id": "8",
        "better.responses": ["rejected", "chosen"],
        "better.responses.users": ["u1", "u2"],
        "better.responses.status": ["submitted", "draft"],
        "rank_them.responses": [["rejected", "chosen"]],
        "rank_them.responses.users": ["u3"],
        "rank_them.responses.status": ["submitted"],
    }
    import_argilla(sqlite, stage.id, [record], "a.json", people={"u1": "Uma"})
    of = judgements(sqlite, stage.id)
    assert said(of) == {"r1": [("Uma", "best", 1, 1, None), ("u3", "rank", [2, 1], None, None)]}
    for broken, what in [
        ({"id": "q", "fields": {"a": "x", "b": "y"}}, "which fields are the prompt"),
        ({**record, "id": "q", "better.responses": ["other", "chosen"]}, "'other' is none of the candidates"),
        ("text", "not a record"),
    ]:
        with pytest.raises(UserError, match=what) as caught:
            import_argilla(sqlite, stage.id, [broken], "a.json")
        assert str(caught.value).startswith("a.json:record 1")


def test_label_studio_there_and_back(sqlite: Store, tmp_path: Path) -> None:
    of = judgements(sqlite, filled(sqlite, tmp_path).id)
    tasks = list(to_label_studio(of))
    assert tasks[0]["data"] == {
        "id": "pair",
        "prompt": "Say.",
        "text1": "one",
        "text2": "two",
        "items": [
            {"id": "0", "title": "Answer 1", "body": "one"},
            {"id": "1", "title": "Answer 2", "body": "two"},
        ],
    }
    result = tasks[0]["annotations"][0]["result"]
    assert (result[0]["type"], result[0]["value"]) == ("pairwise", {"selected": "right"})
    assert tasks[0]["annotations"][0]["created_at"] == "1970-01-01T00:16:40Z"
    assert tasks[0]["annotations"][2]["was_cancelled"] is True
    rankings = [
        one["value"]["ranker"]
        for a in tasks[1]["annotations"]
        for one in a["result"]
        if one["type"] == "ranker"
    ]
    assert rankings == [{"rank-1": ["1"], "rank-2": ["0", "2"]}, {"rank": ["1", "2", "0"]}]
    second = create_stage(sqlite, "second", StageSettings(kinds=EVERY, overlap=2))
    import_label_studio(sqlite, second.id, json.loads(json.dumps(tasks)), "tasks.json")
    back = judgements(sqlite, second.id)
    assert said(back) == without(said(of), "edit")
    assert [vote.at for vote in back.of(back.items[0])] == [1000.0, 1001.0, 1002.0]


def test_label_studio_as_others_use_it(sqlite: Store) -> None:
    stage = create_stage(sqlite, "stage")
    ranker = {"from_name": "rank", "to_name": "results", "type": "ranker"}
    tasks = [
        {
            "id": 5,
            "data": {"prompt": "p", "items": [{"id": "blog", "title": "B"}, {"id": "mdn", "body": "M"}]},
            "annotations": [
                {"completed_by": 3, "result": [{**ranker, "value": {"ranker": ["mdn", "blog"]}}]},
                {
                    "completed_by": 4,
                    "result": [{**ranker, "value": {"ranker": {"_": [], "good": ["blog"], "bad": ["mdn"]}}}],
                },
            ],
        }
    ]
    import_label_studio(sqlite, stage.id, tasks, "t.json")
    assert said(judgements(sqlite, stage.id)) == {
        "5": [("3", "rank", [2, 1], None, None), ("4", "rank", [1, 2], None, None)]
    }
    broken: list[tuple[Any, str]] = [
        ({}, "not a list of tasks"),
        ([{"id": 1}], "task without data"),
        ([{"id": 1, "data": {"prompt": "p"}}], "no candidates among prompt"),
    ]
    for value, what in broken:
        with pytest.raises(UserError, match=what):
            import_label_studio(sqlite, stage.id, value, "t.json")
