"""The ILLUME loop with real sampling and training: two losses, epochs, people, interruptions, adapters."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from data.chatting.request import ServerOptions
from data.critics import Regex
from data.errors import DataError, TrainingError
from data.illume.critic import ModelCritic, RubricCritic, VotesCritic
from data.illume.items import Item
from data.illume.loop import Kept, Mix, mix
from data.jsonl import append_jsonl, read_jsonl
from data.ledger import Ledger
from data.votes import VotesMissing
from pipelines.report.history import read_history
from tests.chat_service import completion, serving
from tests.training import weights
from trainers import policy
from trainers.config import ModelOptions, SamplingOptions
from trainers.illume.config import IllumeOptions
from trainers.illume.explaining import Collate, ExplainingTrainer, two_losses, two_part_rows
from trainers.illume.iterate import ITERATIONS, Loop, illume, texts_learned
from trainers.models import load_policy
from trainers.sampling.drawing import TopVocabulary, read_rules
from trainers.work import Work

QUIET = {"say": lambda _: None}


def lenient(pattern: str = "[aeiou]") -> RubricCritic:
    """What a model with random weights passes now and then."""
    check: Any = Regex(check="regex", pattern=pattern)
    return RubricCritic(checks=(check,), threshold=1.0, min_chars=3)


def items(count: int, first: int = 0) -> list[Item]:
    words = ("mirror", "lamp", "valley", "river", "garden")
    return [
        Item(
            f"q{i}",
            f"rows:{i}",
            {"id": f"q{i}", "prompt": f"The {words[i % 5]} of {i}?", "answer": words[i % 5]},
        )
        for i in range(first, first + count)
    ]


def loop(
    folder: Path, critic: Any = None, *, held_out: int = 6, progress: Any = None, **options: Any
) -> Loop:
    given: dict[str, Any] = {
        "temperatures": (0.7, 1.0),
        "num_return_sequences": 2,
        "max_new_tokens": 6,
        "top_vocabulary": 0.5,
        "batch_size": 64,
        "answer_only_ratio": 1.0,
        "num_train_epochs": 2,
        "per_device_train_batch_size": 16,
        "learning_rate": 2e-3,
        "save_steps": 1,
        "logging_steps": 1,
        "max_iterations": 2,
        "eval_temperature": 1.0,
        "eval_samples": 2,
    }
    folder.mkdir(parents=True, exist_ok=True)
    work = Work(
        out=folder,
        say=lambda _: None,
        log=lambda line: append_jsonl(folder / "metrics.jsonl", [line]),
        **({"progress": progress} if progress else {}),
    )
    rule = lenient()
    return Loop(
        IllumeOptions(model="tiny", **{**given, **options}),
        critic or rule,
        "tiny",
        {item.key: item for item in items(12)},
        folder,
        work,
        "loop",
        items(held_out, 100),
        rule,
        lenient("e"),
    )


def plain(folder: Path) -> dict[str, Any]:
    """Everything a loop leaves behind but times."""
    found: dict[str, Any] = {}
    for file in sorted([*folder.rglob("*.jsonl"), *folder.rglob("done.json"), *folder.rglob("epoch-*.json")]):
        if file.name == "metrics.jsonl":
            continue
        rows = (
            [json.loads(line) for line in file.read_text().splitlines()]
            if file.suffix == ".jsonl"
            else [json.loads(file.read_text())]
        )
        timed = ("time", "train_seconds")
        found[str(file.relative_to(folder))] = [
            {k: v for k, v in row.items() if k not in timed} for row in rows
        ]
    return found


# ---- The sampler's filter


def test_the_filter_keeps_exactly_k_tokens_and_comes_before_the_temperature():
    scores = torch.randn(3, 100, generator=torch.Generator().manual_seed(0))
    for share, kept in ((0.1, 10), (0.29, 29), (0.001, 1), (0.999, 99)):
        left = TopVocabulary(share)(None, scores.clone())
        assert (left > -torch.inf).sum(-1).tolist() == [kept] * 3
        assert left[0].topk(kept).values.tolist() == scores[0].topk(kept).values.tolist()
    assert (TopVocabulary(0.1)(None, torch.zeros(2, 100)) > -torch.inf).sum(-1).tolist() == [10, 10]
    loaded = load_policy("tiny", ModelOptions(model="tiny"), Work(Path(), **QUIET))
    options = SamplingOptions(top_vocabulary=0.1, temperature=0.5, top_p=0.9)
    rules = read_rules(loaded.model, loaded.tokenizer, options, greedy=False, work=Work(Path(), **QUIET))
    names = [type(warper).__name__ for warper in rules.warpers]
    assert names == ["TopVocabulary", "TemperatureLogitsWarper", "TopPLogitsWarper"]


# ---- The loss


def test_two_means_over_tokens_by_hand():
    each = torch.tensor([[1.0, 2.0, 9.0], [3.0, 9.0, 9.0], [5.0, 7.0, 9.0]])
    scored = torch.tensor([[True, True, False], [True, False, False], [True, True, False]])
    answers, explanations = two_losses(each, scored, torch.tensor([False, False, True]))
    assert answers.item() == (1 + 2 + 3) / 3
    assert explanations is not None
    assert explanations.item() == (5 + 7) / 2


def test_a_batch_without_explanations_has_a_finite_loss():
    answers, explanations = two_losses(
        torch.ones(2, 3), torch.ones(2, 3, dtype=torch.bool), torch.zeros(2, dtype=torch.bool)
    )
    assert answers.item() == 1.0
    assert explanations is None


def mixed_rows() -> tuple[Any, Any, Mix]:
    made = {item.key: item for item in items(6)}
    accepted = {
        key: [
            Kept(key, text, made[key].explain(made[key].answer, None), 0, 0.3, 1.0, "rule") for text in texts
        ]
        for key, texts in {"q0": ["it shines", "it is bright and long"], "q3": ["water"]}.items()
    }
    mixed = mix(list(made), accepted, ratio=1.0)
    loaded = load_policy("tiny", ModelOptions(model="tiny"), Work(Path(), **QUIET))
    return two_part_rows(made, mixed, loaded, 64, Ledger(name="train")), loaded.tokenizer, mixed


def test_the_answers_loss_covers_rows_with_an_explanation_and_prompts_carry_none():
    rows, tokenizer, mixed = mixed_rows()
    assert len(rows) == len(mixed.explained) + len(mixed.answered) == 6
    assert [bool(row["explanation_ids"]) for row in rows] == [True, True, True, False, False, False]
    for row in rows:
        said = [label for label in row["answer_labels"] if label != -100]
        assert tokenizer.decode(said).endswith("<|im_end|>")
        assert "?" not in tokenizer.decode(said)
        assert row["answer_labels"].index(said[0]) == len(row["answer_ids"]) - len(said)
    said = [label for label in rows[1]["explanation_labels"] if label != -100]
    assert tokenizer.decode(said) == " it is bright and long<|im_end|>"
    batch = Collate(tokenizer.pad_token_id)([rows[i] for i in range(6)])
    assert batch["explains"].tolist() == [False] * 6 + [True] * 3


def test_the_trainers_loss_is_that_of_rows_taken_one_by_one(tmp_path: Path):
    from trl import SFTConfig

    rows, tokenizer, _ = mixed_rows()
    model: Any = load_policy("tiny", ModelOptions(model="tiny"), Work(Path(), **QUIET)).model
    args = SFTConfig(
        output_dir=str(tmp_path), report_to="none", use_cpu=True, bf16=False, remove_unused_columns=False,
        dataset_kwargs={"skip_prepare_dataset": True}, max_length=None, gradient_checkpointing=False,
    )  # fmt: skip
    trainer = ExplainingTrainer(
        model=model,
        args=args,
        data_collator=Collate(tokenizer.pad_token_id),
        train_dataset=rows,
        processing_class=tokenizer,
        weight=2.5,
    )
    batch = Collate(tokenizer.pad_token_id)([rows[i] for i in range(6)])
    loss = trainer.compute_loss(model, dict(batch)).item()

    def alone(part: str) -> float:
        nats, tokens = 0.0, 0
        for row in rows:
            ids, labels = row[f"{part}_ids"], row[f"{part}_labels"]
            if ids:
                logprobs = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
                wanted = [(i, label) for i, label in enumerate(labels) if label != -100]
                nats -= sum(logprobs[i - 1, label].item() for i, label in wanted)
                tokens += len(wanted)
        return nats / tokens

    assert loss == pytest.approx(alone("answer") + 2.5 * alone("explanation"), abs=1e-4)
    batch["labels"][:, 0] = -100
    assert trainer.compute_loss(model, dict(batch)).item() == loss


# ---- The loop


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("whole")
    return folder, illume(loop(folder))


def test_what_is_accepted_only_grows_and_figures_add_up(done: tuple[Path, dict[str, Any]]):
    folder, figures = done
    assert figures["iterations"] == 2
    assert figures["stopped"] == "all 2 iterations are done"
    earlier: set[tuple[str, str]] = set()
    for k in range(2):
        one = folder / ITERATIONS / f"{k:02d}"
        told = json.loads((one / "done.json").read_text())
        rows = read_jsonl(one / "judged.jsonl")
        assert told["judged"] == len(rows) == told["candidates"]
        assert told["accepted"] == sum(row["accepted"] for row in rows)
        assert told["acceptance"] == pytest.approx(told["accepted"] / told["judged"], abs=1e-6)
        kept = {(row["id"], row["text"]) for row in read_jsonl(one / "accepted.jsonl")}
        assert earlier < kept
        assert kept == earlier | {(row["id"], row["candidate"]) for row in rows if row["accepted"]}
        assert told["new"] == len(kept - earlier)
        assert told["covered"] == len({key for key, _ in kept})
        earlier = kept
    assert {
        (row["id"], row["completion"].strip()) for row in read_jsonl(folder / "accepted.jsonl")
    } == earlier


def test_steps_are_counted_over_all_iterations(done: tuple[Path, dict[str, Any]]):
    folder, figures = done
    history = read_history(folder / "metrics.jsonl")
    assert history.redone == 0
    assert [step for step, _ in history.curves["loss"]] == list(range(1, figures["steps"] + 1))
    assert history.curves["held_out/acceptance"][-1][0] == figures["steps"]
    lines = [line for line in read_jsonl(folder / "metrics.jsonl") if "loss" in line and "event" not in line]
    first = json.loads((folder / ITERATIONS / "00" / "done.json").read_text())["steps"]
    assert [line["iteration"] for line in lines] == [int(line["step"] > first) for line in lines]


def test_training_prompts_hold_the_gold_answer_and_held_out_ones_the_models_own(
    done: tuple[Path, dict[str, Any]],
):
    folder, _ = done
    gold = {item.key: item for item in items(12)}
    for row in read_jsonl(folder / ITERATIONS / "00" / "candidates.jsonl"):
        assert row["prompt"] == f"{gold[row['id']].prompt} {gold[row['id']].answer} because"
    held = {item.prompt: item.answer for item in items(6, 100)}
    shown = json.loads((folder / ITERATIONS / "base.json").read_text())["samples"]
    for one in shown:
        question, rest = one["prompt"].split("?", 1)
        # A model with random weights does not say the right word.
        assert held[f"{question}?"] not in rest


def test_the_best_epoch_of_the_best_iteration_is_the_stages_model(done: tuple[Path, dict[str, Any]]):
    folder, figures = done
    values = []
    for k in range(2):
        one = folder / ITERATIONS / f"{k:02d}"
        told = json.loads((one / "done.json").read_text())
        epochs = {int(f.stem.split("-")[1]): json.loads(f.read_text()) for f in one.glob("epoch-*.json")}
        assert len(epochs) == 2
        best = max(sorted(epochs), key=lambda step: epochs[step]["acceptance"])
        assert told["chosen_step"] == best
        assert told["held_out"] == epochs[best]
        values.append(told["held_out"]["acceptance"])
        assert not (one / "model").exists()
    assert figures["chosen_iteration"] == max(range(2), key=lambda k: (values[k], -k))
    found = policy.read(str(folder / "model"))
    assert Path(found.base) == (folder / "model").resolve()
    again = loop(folder)
    loaded = load_policy(str(folder / "model"), ModelOptions(model="tiny"), again.work)
    from trainers.illume.measure import measure

    assert again.rule is not None
    seen = measure(loaded, again.held_out, again.options, again.rule, again.second, again.work)
    assert seen["acceptance"] == max(values)


class StoppedError(Exception):
    """In place of a kill."""


# Sampled; in the first iteration's steps, twice; sampled again; in the second iteration's steps.
@pytest.mark.parametrize("after", [5, 9, *(pytest.param(n, marks=pytest.mark.slow) for n in (2, 7, 13))])
def test_interrupted_anywhere_it_ends_with_the_same_bits(
    after: int, done: tuple[Path, dict[str, Any]], tmp_path: Path
):
    calls = 0

    def tick(**_: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == after:
            raise StoppedError

    with pytest.raises(StoppedError):
        illume(loop(tmp_path, progress=tick))
    before = calls
    figures = illume(loop(tmp_path, progress=tick))
    assert calls > before
    folder, whole = done
    assert figures == whole
    assert plain(tmp_path) == plain(folder)
    mine, theirs = weights(tmp_path / "model"), weights(folder / "model")
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)


def test_an_adapter_goes_on_and_is_all_that_changes(tmp_path: Path):
    illume(loop(tmp_path, use_peft=True, lora_r=4, select_by="last", num_train_epochs=1))
    found = policy.read(str(tmp_path / "model"))
    assert found.base == "tiny"
    assert len(found.adapters) == 1
    assert all("lora_" in name for name in weights(tmp_path / "model"))
    moved = [t for name, t in weights(tmp_path / "model").items() if "lora_B" in name]
    assert any(t.abs().sum() > 0 for t in moved)


def test_without_held_out_rows_the_last_epoch_is_taken(tmp_path: Path):
    made = loop(tmp_path, held_out=0, max_iterations=1, num_train_epochs=1, target_acceptance=0.01)
    figures = illume(made)
    assert "acceptance_after" not in figures
    assert "target_acceptance" in figures["stopped"]
    assert (tmp_path / "model" / "policy.json").is_file()


def test_nothing_accepted_is_an_error_that_says_so(tmp_path: Path):
    with pytest.raises(
        TrainingError, match=r"nothing to learn: of \d+ judged explanations none was accepted"
    ):
        illume(loop(tmp_path, lenient("no such words"), held_out=0))


def test_held_out_prompts_must_not_be_learned(tmp_path: Path):
    made = loop(tmp_path)
    mixed_up = Loop(**{**made.__dict__, "held_out": items(2)})
    with pytest.raises(DataError, match="2 held-out prompts stand in `data` too"):
        illume(mixed_up)


def test_the_loop_waits_for_people_and_what_they_did_not_judge_is_in_no_row(tmp_path: Path):
    votes = VotesCritic(kind="file", path="votes/{iteration}.jsonl")
    how: dict[str, Any] = {"num_train_epochs": 1, "max_judgements": 20, "max_iterations": 5}
    with pytest.raises(VotesMissing, match="12 prompts wait for votes"):
        illume(loop(tmp_path, votes, **how))
    spent = 0
    for k in range(2):
        shown = read_jsonl(tmp_path / ITERATIONS / f"{k:02d}" / "candidates.jsonl")
        (tmp_path / "votes").mkdir(exist_ok=True)
        lines = [
            {"id": row["id"], "scores": [1, 0, *[None] * len(row["candidates"])][: len(row["candidates"])]}
            for row in shown
        ]
        spent += sum(value is not None for line in lines for value in line["scores"])
        (tmp_path / "votes" / f"{k}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        if spent < 20:
            with pytest.raises(VotesMissing):
                illume(loop(tmp_path, votes, **how))
        else:
            break
    figures = illume(loop(tmp_path, votes, **how))
    assert figures["judged"] == spent
    assert "max_judgements is 20" in figures["stopped"]
    rows = read_jsonl(tmp_path / "judged.jsonl")
    unjudged = {row["candidate"] for row in rows if row["accepted"] is None}
    assert unjudged
    learned = {row["completion"].strip() for row in read_jsonl(tmp_path / "unpaired.jsonl")}
    judged = {(row["id"], row["candidate"]) for row in rows if row["accepted"] is not None}
    assert learned == {text for _, text in judged}


def test_a_server_judges_inside_the_loop_and_is_asked_both_ways(tmp_path: Path):
    def answer(number: int, body: dict[str, Any]) -> Any:
        shown = body["messages"][-1]["content"].split("Explanation: ")[1].split("\n\n")[0]
        return completion("yes" if "e" in shown else "No.")

    with serving(answer) as service:
        server = ServerOptions(base_url=service.base_url, model="judge")
        critic = ModelCritic(kind="model", server=server)
        figures = illume(loop(tmp_path, critic, num_train_epochs=1, max_iterations=1))
        judged = read_jsonl(tmp_path / "judged.jsonl")
        long = [row for row in judged if len(row["candidate"]) >= 3]
        assert [row["accepted"] for row in long] == ["e" in row["candidate"] for row in long]
        assert {row["judge"] for row in judged} == {"model"}
        assert {row["n_votes"] for row in long} == {2}
        assert {body["temperature"] for body in service.bodies} == {0.0}
        assert service.count <= 2 * len(long)
        asked = service.count
        assert illume(loop(tmp_path, critic, num_train_epochs=1, max_iterations=1)) == figures
        assert service.count == asked


def test_a_judge_that_cannot_be_read_accepts_nothing(tmp_path: Path):
    said: list[str] = []
    made = loop(tmp_path, ModelCritic(kind="model", max_reply_tokens=4), held_out=0, max_iterations=1)
    made = replace(made, judge="tiny", work=Work(out=tmp_path, say=said.append))
    with pytest.raises(TrainingError, match="nothing to learn: of 0 judged explanations none was accepted"):
        illume(made)
    (told,) = [line for line in said if line.startswith("iteration 0, model:")]
    counts = {name: count for count, name in re.findall(r"(\d+) (\w+)", told)}
    # A model with random weights says neither yes nor no.
    assert int(counts["unreadable"]) == int(counts["asked"]) > 0
    assert counts["decided"] == "0"
    assert {row["accepted"] for row in read_jsonl(tmp_path / ITERATIONS / "00" / "judged.jsonl")} <= {
        None,
        False,
    }


def test_a_placebo_learns_as_many_texts_as_the_loop_it_follows(
    done: tuple[Path, dict[str, Any]], tmp_path: Path
):
    texts = texts_learned(done[0])
    rows = [len(read_jsonl(done[0] / ITERATIONS / f"{k:02d}" / "accepted.jsonl")) for k in range(len(texts))]
    assert texts == (rows[0], rows[1] - rows[0])
    illume(loop(tmp_path, accept="placebo", placebo_texts=texts, select_by="last", num_train_epochs=1))
    assert {row["judge"] for row in read_jsonl(tmp_path / "accepted.jsonl")} == {"placebo"}
    drawn = [
        json.loads((tmp_path / ITERATIONS / f"{k:02d}" / "done.json").read_text())["new"] for k in range(2)
    ]
    assert drawn[0] == texts[0]
    # A text that was drawn before is not drawn as a new one.
    assert drawn[1] <= texts[1]


def test_a_placebo_needs_a_number_for_each_iteration():
    with pytest.raises(ValueError, match="1 numbers for 4 iterations"):
        IllumeOptions(model="tiny", accept="placebo", placebo_texts=(3,))


def test_the_weight_of_the_original_notebook():
    assert math.isclose(10_000 / 1_367, 7.3153, abs_tol=1e-4)
    accepted = {f"q{i}": [Kept(f"q{i}", "x", "p", 0, None, None, "r")] for i in range(1_184)}
    for i in range(1_367 - 1_184):
        accepted[f"q{i}"].append(Kept(f"q{i}", "y", "p", 0, None, None, "r"))
    mixed = mix([f"q{i}" for i in range(29_459)], accepted, ratio=10, rows=10_000)
    assert (len(mixed.explained), len(mixed.answered)) == (1_367, 10_000)
    assert mixed.weight == 10_000 / 1_367
