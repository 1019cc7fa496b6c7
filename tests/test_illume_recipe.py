"""`kind: illume` in a recipe: what is refused, what later stages find of it, and where its pictures may lie."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from data.errors import DataError
from data.feedback.items import MOST_CANDIDATES
from data.illume.critic import MOST_SHOWN
from data.illume.items import read_items
from data.jsonl import write_jsonl_atomic
from data.ledger import Ledger
from data.sources import Mixture
from pipelines.recipe import check
from pipelines.stage import Built, Job

PEOPLE = {"kind": "people"}


def faults(folder: Path, *later: dict[str, Any], **settings: Any) -> list[str]:
    """What is told of a recipe with this illume stage, after the line and column."""
    for name in ("a", "b"):
        write_jsonl_atomic(folder / f"{name}.jsonl", [{"prompt": "p", "answer": "a"}])
    loop = {
        "name": "loop",
        "kind": "illume",
        "model": "tiny",
        "data": "a.jsonl",
        "critic": {"kind": "rouge_l"},
    }
    stages = [{key: value for key, value in {**loop, **settings}.items() if value is not None}, *later]
    (folder / "demo.yaml").write_text(yaml.safe_dump({"recipe": "demo", "stages": stages}))
    return [fault.render("demo") for fault in check(folder / "demo.yaml").faults]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"patience": 2}, "patience: it looks at held-out prompts: give `eval_data:`"),
        ({"select_by": "score"}, "select_by: it looks at held-out prompts"),
        ({"second_measure": {"kind": "rouge_l"}}, "second_measure: it looks at held-out prompts"),
        ({"critic": PEOPLE, "eval_data": "b.jsonl"}, "people judge `data` alone"),
        (
            {"critic": {"kind": "file", "path": "v-{iteration}.jsonl"}, "eval_data": "b.jsonl"},
            "give `eval_critic:`",
        ),
        ({"select_by": "second", "eval_data": "b.jsonl"}, "select_by: it needs a `second_measure:`"),
        ({"critic": {"kind": "model"}}, "say which, as `judge: MODEL`"),
        ({"judge": "tiny"}, "the critic is `rouge_l`, and asks no model"),
        (
            {
                "critic": {"kind": "model", "server": {"base_url": "http://127.0.0.1/v1", "model": "m"}},
                "judge": "tiny",
            },
            "the critic's `server` judges already",
        ),
        ({"critic": PEOPLE, "num_return_sequences": 33}, "shows at most 64 side by side"),
        ({"placebo_texts": [1, 2, 3, 4]}, "write `accept: placebo` too"),
        ({"accept": "placebo", "placebo_of": "nothing"}, "no stage is called"),
        ({"training": {"eval_strategy": "steps"}}, "`kind: illume` measures itself after every epoch"),
        ({"max_steps": 0}, "0 steps train nothing"),
        ({"critic": {"kind": "file", "path": "votes.jsonl"}}, "write {iteration} into the path"),
        ({"critic": {"kind": "people", "votes": ["best", "choose"]}}, "do not say whether any fits"),
        ({"load_in_4bit": True}, "4-bit weights cannot be trained in full: write `use_peft: true`"),
    ],
)
def test_settings_that_do_not_go_together_are_told_at_their_key(
    settings: dict[str, Any], said: str, tmp_path: Path
):
    assert said in "\n".join(faults(tmp_path, **settings))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"eval_data": "b.jsonl", "patience": 2, "select_by": "score"},
        {"critic": PEOPLE, "eval_data": "b.jsonl", "eval_critic": {"kind": "rouge_l"}},
        {"critic": {"kind": "model", "how": "pairwise"}, "judge": "tiny"},
        {"critic": PEOPLE, "num_return_sequences": 32},
        {"load_in_4bit": True, "use_peft": True},
    ],
)
def test_settings_that_go_together_are_not_refused(settings: dict[str, Any], tmp_path: Path):
    assert faults(tmp_path, **settings) == []


def test_the_chain_of_policies_goes_through_the_loop(tmp_path: Path):
    after = {"name": "more", "kind": "sft", "model": "loop", "data": "loop"}
    assert faults(tmp_path, after) == []
    assert "full training would start below the adapters" in "\n".join(faults(tmp_path, after, use_peft=True))
    merge = {"name": "merged", "kind": "merge", "model": "loop"}
    assert "nothing to merge" in "\n".join(faults(tmp_path, merge))
    assert faults(tmp_path, merge, use_peft=True) == []
    prefer = {"name": "align", "kind": "prefer", "model": "loop", "pairs": "loop", "use_peft": True}
    assert faults(tmp_path, prefer, use_peft=True) == []
    copy = {
        "name": "copy",
        "kind": "illume",
        "model": "tiny",
        "data": "a.jsonl",
        "critic": {"kind": "rouge_l"},
    }
    assert faults(tmp_path, {**copy, "accept": "placebo", "placebo_of": "loop"}) == []
    assert "write `accept: placebo` too" in "\n".join(faults(tmp_path, {**copy, "placebo_of": "loop"}))
    forget = {"name": "forget", "kind": "unlearn", "model": "loop", "method": "ga", "forget": "loop"}
    assert faults(tmp_path, forget) == []


def test_every_later_stage_finds_its_own_sort_of_rows(tmp_path: Path):
    for name in ("rows", "pairs", "unpaired", "rejected"):
        write_jsonl_atomic(tmp_path / "loop" / f"{name}.jsonl", [])
    write_jsonl_atomic(tmp_path / "judged" / "rows.jsonl", [])
    inputs = {name: Built(name, "illume", tmp_path / name, "0", {}, {}) for name in ("loop", "judged")}
    job = Job(tmp_path / "out", inputs=inputs)

    def found(name: str, sort: str | None) -> str:
        return Path(job.mixture(Mixture.model_validate(name), sort).sources[0].path).name

    assert [found("loop", sort) for sort in (None, "pairs", "unpaired", "rejected")] == [
        "rows.jsonl", "pairs.jsonl", "unpaired.jsonl", "rejected.jsonl",
    ]  # fmt: skip
    assert found("judged", "pairs") == "rows.jsonl"


def test_the_page_shows_as_many_as_the_recipe_may_draw():
    assert MOST_SHOWN == MOST_CANDIDATES


# ---- Pictures


def items_of(folder: Path, image: Any) -> Any:
    row = {"prompt": "What is it?", "answer": "a ball", "image": image}
    write_jsonl_atomic(folder / "rows" / "a.jsonl", [row])
    return read_items(Mixture.model_validate("rows/a.jsonl"), folder, Ledger(name="data"))


def test_a_picture_lies_below_the_folder_of_its_rows(tmp_path: Path):
    (tmp_path / "rows" / "images").mkdir(parents=True)
    (tmp_path / "rows" / "images" / "1.png").write_bytes(b"x")
    (item,) = items_of(tmp_path, "images/1.png")
    assert item.picture == (tmp_path / "rows" / "images" / "1.png").resolve()
    assert items_of(tmp_path, None)[0].picture is None


@pytest.mark.parametrize(
    "image", ["../outside.png", "images/../../outside.png", "images/link.png", "images", "no.png"]
)
def test_a_picture_elsewhere_is_refused(image: str, tmp_path: Path):
    (tmp_path / "rows" / "images").mkdir(parents=True)
    (tmp_path / "outside.png").write_bytes(b"secret")
    (tmp_path / "rows" / "images" / "link.png").symlink_to(tmp_path / "outside.png")
    with pytest.raises(DataError, match=r"a.jsonl:1: the image is not a file in the folder of images"):
        items_of(tmp_path, image)
    with pytest.raises(DataError, match="the image is not a file"):
        items_of(tmp_path, str(tmp_path / "outside.png"))


@pytest.mark.parametrize("image", [3, "", ["a.png"]])
def test_a_picture_is_named_by_text(image: Any, tmp_path: Path):
    with pytest.raises(DataError, match="not the path of a file"):
        items_of(tmp_path, image)
