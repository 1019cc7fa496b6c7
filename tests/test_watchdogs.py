"""Watchdogs against faults that a real training really has: each fires where it should; a healthy run is left alone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from data.errors import TrainingError
from data.ledger import LedgerLimits
from data.sources import Mixture
from tests.training import pair_rows, run_sft, weights, write_rows
from trainers import aliases
from trainers.config import PreferOptions
from trainers.preference import preference_trainer, train_preference
from trainers.training import checkpoints, watching
from trainers.training.prepare import load_rows, prepare_pairs
from trainers.watchdogs.going_back import RECORD, GoingBack
from trainers.watchdogs.rules import Firing
from trainers.watchdogs.state import WatchState, write_state
from trainers.work import Work

SMALL: dict[str, Any] = {"samples": 4, "max_new_tokens": 12}
TELL: dict[str, Any] = {name: {"action": "warn"} for name in ("chosen_drop", "repetition", "entropy")}
HOT: dict[str, Any] = {
    "learning_rate": 1e-2,
    "warmup_steps": 20,
    "lr_scheduler_type": "constant_with_warmup",
}


ROOT = Path(__file__).parent.parent


class Stop(Exception):  # noqa: N818 - it stands for a signal
    """Stands for the process that ends in the middle of training."""


class Ran(NamedTuple):
    figures: dict[str, Any]
    said: list[str]
    lines: list[dict[str, Any]]

    @property
    def fired(self) -> set[str]:
        return {one["watch"] for one in self.figures["watchdogs"]}


@pytest.fixture(scope="module")
def sft(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("sft")
    run_sft(folder, max_steps=60, learning_rate=5e-3)
    return str(folder / "model")


def prepared(
    folder: Path, start: str, rows: list[dict[str, Any]] | None, options: dict[str, Any]
) -> tuple[PreferOptions, Work, Ran]:
    folder.mkdir(parents=True, exist_ok=True)
    ran = Ran({}, [], [])
    work = Work(out=folder, say=ran.said.append, log=ran.lines.append)
    given = {"per_device_train_batch_size": 4, "logging_steps": 1, **options}
    chosen = PreferOptions(model=start, **given)
    file = write_rows(folder / "rows-in.jsonl", rows or pair_rows())
    prepare_pairs(chosen, start, Mixture.model_validate(str(file)), None, folder, LedgerLimits(), work)
    return chosen, work, ran


def prefer(folder: Path, start: str, rows: list[dict[str, Any]] | None = None, **options: Any) -> Ran:
    chosen, work, ran = prepared(folder, start, rows, options)
    ran.figures.update(train_preference(chosen, start, work, name="dpo"))
    return ran


def test_a_healthy_run_is_left_alone_and_ends_in_the_same_weights(sft: str, tmp_path: Path) -> None:
    given: dict[str, Any] = {"max_steps": 10, "learning_rate": 3e-4, "use_peft": True, "lora_r": 4}
    watched = prefer(tmp_path / "watched", sft, **given, watch={"every": 5, **SMALL})
    bare = prefer(tmp_path / "bare", sft, **given, watch=False)
    one, other = weights(tmp_path / "watched" / "model"), weights(tmp_path / "bare" / "model")
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)
    assert watched.figures["watchdogs"] == []
    assert "watchdogs" not in bare.figures
    assert watched.figures["steps"] == bare.figures["steps"] == 10
    assert not any("watchdog" in line for line in watched.said)
    measured = [line for line in watched.lines if line.get("event") == "watched"]
    assert [line["step"] for line in measured] == [5, 10]
    assert measured[-1]["watch/entropy"] == watched.figures["entropy_end"]
    for figure, value in expected(sft, tmp_path / "watched", SMALL["max_new_tokens"]).items():
        assert watched.figures[f"{figure}_start"] == pytest.approx(value, rel=1e-4), figure
    # What a step has anyway, by the definitions: per token, against the reference.
    steps = [line for line in watched.lines if "loss" in line]
    assert steps[0]["watch/chosen_drop"] == pytest.approx(0, abs=1e-5)
    assert steps[-1]["watch/chosen_drop"] < 0.5
    assert steps[-1]["watch/saturated"] == 0
    assert steps[-1]["watch/gradient_spike"] < 3
    assert not any(key.startswith("watch/") for line in bare.lines for key in line)


def expected(start: str, out: Path, max_new_tokens: int) -> dict[str, float]:
    """The start's figures of the first four prompts that are spread over the rows, token by token and without cache."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(start, dtype=torch.float32).eval()
    end = AutoTokenizer.from_pretrained(start).eos_token_id
    rows = load_rows(out)[0]
    entropies, squares, repeated = [], [], []
    for place in range(0, len(rows), len(rows) // 4):
        ids, answer = list(rows[place]["prompt_ids"]), []
        while len(answer) < max_new_tokens and end not in answer:
            with torch.no_grad():
                logits = model(torch.tensor([[*ids, *answer]])).logits[0, -1].double()
            entropies.append(torch.distributions.Categorical(logits=logits).entropy().item())
            squares.append(logits.exp().sum().log().item() ** 2)
            answer.append(int(logits.argmax()))
        grams = [tuple(answer[i : i + 4]) for i in range(len(answer) - 3)]
        repeated.append(sum(gram in grams[:i] for i, gram in enumerate(grams)) / max(1, len(grams)))
    return {
        "entropy": sum(entropies) / len(entropies),
        "log_z_squared": sum(squares) / len(squares),
        "repetition": sum(repeated) / 4,
    }


PRECISIONS: dict[str, dict[str, Any]] = {"bfloat16": {"dtype": "bfloat16"}, "mixed": {"bf16": True}}


@pytest.mark.parametrize("precision", ["bfloat16", pytest.param("mixed", marks=pytest.mark.slow)])
def test_half_precision_is_watched_alike(precision: str, sft: str, tmp_path: Path) -> None:
    # A policy goes on in the number type that it was made in.
    start = str(aliases.resolve("tiny")) if precision == "bfloat16" else sft
    given: dict[str, Any] = {"max_steps": 2, "learning_rate": 3e-4, **PRECISIONS[precision]}
    watched = prefer(tmp_path / "watched", start, **given, watch={"every": 2, **SMALL})
    assert watched.figures["watchdogs"] == []
    known = expected(start, tmp_path / "watched", SMALL["max_new_tokens"])
    for figure in (
        "entropy",
        "log_z_squared",
    ):  # Where two tokens are as likely, rounding chooses another one.
        assert watched.figures[f"{figure}_start"] == pytest.approx(known[figure], rel=0.05), figure
    prefer(tmp_path / "bare", start, **given, watch=False)
    one, other = weights(tmp_path / "watched" / "model"), weights(tmp_path / "bare" / "model")
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_a_stage_too_short_to_be_measured_is_not(sft: str, tmp_path: Path) -> None:
    ran = prefer(tmp_path, sft, max_steps=2, learning_rate=1e-5)
    assert ran.figures["watchdogs"] == []
    assert "watch_seconds" not in ran.figures
    assert not any(line.get("event") == "watched" for line in ran.lines)


def test_stop_leaves_the_last_good_checkpoint(sft: str, tmp_path: Path) -> None:
    """A learning rate that is too high: answers begin to go round in circles."""
    ran = prefer(tmp_path, sft, max_steps=30, **HOT, watch={"every": 2, "samples": 8})
    (fired,) = ran.figures["watchdogs"]
    assert (fired["watch"], fired["action"]) == ("repetition", "stop")
    assert fired["value"] > fired["limit"] == 0.3  # at the start nothing is repeated
    assert fired["to"] == fired["since"] - 1 == ran.figures["kept_step"] == ran.figures["steps"]
    assert fired["step"] < 30
    kept = load_file(
        str(tmp_path / "scratch" / "checkpoints" / f"checkpoint-{fired['to']}" / "model.safetensors")
    )
    model = weights(tmp_path / "model")
    assert len(model) == len(kept)
    assert all(torch.equal(model[f"model.safetensors:{key}"], kept[key]) for key in kept)
    assert [line for line in ran.lines if line.get("event") == "watchdog"] == [{"event": "watchdog", **fired}]
    (told,) = [line for line in ran.said if "watchdog" in line]
    assert told.startswith(f"watchdog repetition, step {fired['step']}: ")
    assert f"The stage ends with the model of step {fired['to']}. Lower learning_rate" in told
    # The figures of the record are those of the model that was kept.
    assert ran.figures["repetition_end"] <= 0.3
    logged = {line["step"]: line for line in ran.lines if "loss" in line}
    assert ran.figures["rewards/margins"] == logged[fired["to"]]["rewards/margins"]


def test_without_a_checkpoint_from_before_it_the_stage_fails_and_says_how_to_have_one(
    sft: str, tmp_path: Path
) -> None:
    hot: dict[str, Any] = {"max_steps": 4, "learning_rate": 5e-2}
    with pytest.raises(
        TrainingError, match=r"the watchdog \w+ stopped the stage at step 2, and no checkpoint"
    ) as told:
        prefer(tmp_path, sft, **hot, watch={"every": 2, **SMALL})
    assert "watch: {repetition: {action: warn}}" in str(told.value)
    assert not (tmp_path / "model").exists()


BACK: dict[str, Any] = {
    "every": 1,
    "samples": 1,
    "max_new_tokens": 8,
    "roll_backs": 9,
    "chosen_drop": {"limit": 0.25, "action": "roll_back", "patience": 1},
    "repetition": False,
    "entropy": False,
}


def test_roll_back_goes_on_the_same_after_a_kill(
    sft: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {"max_steps": 5, **HOT, "learning_rate": 3e-2, "watch": BACK}
    straight = prefer(tmp_path / "straight", sft, **given)
    fired = straight.figures["watchdogs"]
    assert [(one["action"], one["step"]) for one in fired] == [("roll_back", 5)]
    # What step 5 saw are the weights that step 4 left; those of step 3 were still well.
    assert (fired[0]["since"], fired[0]["to"]) == (4, 3)
    assert straight.figures["steps"] == 5
    assert "kept_step" not in straight.figures
    # By the schedule, step n of 20 has n - 1 twentieths of the rate; each roll-back halves it from its target on.
    rates = [(line["step"], line["learning_rate"]) for line in straight.lines if "learning_rate" in line]
    halves = 0
    for place, (step, rate) in enumerate(rates):
        if place and step <= rates[place - 1][0]:
            halves += 1
            assert step == fired[halves - 1]["to"] + 1
        assert rate == pytest.approx(3e-2 * (step - 1) / 20 / 2**halves)
    assert halves == len(fired)

    seen: list[int] = []
    again = fired[0]["to"] + 1

    def killed(self: object, args: object, state: Any, control: object, **_: object) -> None:
        seen.append(state.global_step)
        if seen.count(again) == 2:  # once before the roll-back, once behind it
            raise Stop

    with monkeypatch.context() as patched:
        patched.setattr(watching.Teller, "on_step_end", killed)
        with pytest.raises(Stop):
            prefer(tmp_path / "broken", sft, **given)
    resumed = prefer(tmp_path / "broken", sft, **given)
    assert resumed.figures["watchdogs"] == fired
    one, other = weights(tmp_path / "straight" / "model"), weights(tmp_path / "broken" / "model")
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_what_a_roll_back_undid_is_gone_after_a_kill_between(tmp_path: Path) -> None:
    """Killed when the record was written, and before the checkpoints behind its target were removed."""
    work = Work(out=tmp_path, say=lambda _: None)
    folder = work.scratch / checkpoints.FOLDER
    for step, roll_backs in ((4, 0), (6, 0), (8, 1)):
        path = folder / f"checkpoint-{step}"
        path.mkdir(parents=True)
        write_state(WatchState(roll_backs=roll_backs), path)
        checkpoints.seal(path)
    record = [[Firing("repetition", 7, 1.0, 0.3, "roll_back", 5, 4).to_json()]]
    (folder / RECORD).write_text(json.dumps(record))
    options: Any = PreferOptions(model="tiny").watch
    back = GoingBack(options, work)
    back.recall()
    # The one of step 8 was written after the roll-back to step 4.
    assert [path.name for path in checkpoints.up_to(folder, None)] == ["checkpoint-8", "checkpoint-4"]
    assert back.left()  # one of two


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tiny", "symbolic"])
def test_the_recipes_that_stand_here_are_left_alone(name: str, tmp_path: Path) -> None:
    """By the command, with measurements at every second step wherever the recipe has none of its own."""
    stages = {"tiny": ("dpo", "forget"), "symbolic": ("by-name", "by-formula", "unlike")}[name]
    more = [f"stages.{stage}.watch.every=2" for stage in stages]
    command = [
        sys.executable,
        "-m",
        "pipelines.cli",
        "run",
        f"recipes/{name}.yaml",
        "--runs-dir",
        str(tmp_path),
    ]
    ran = subprocess.run([*command, *more], cwd=ROOT, capture_output=True, text=True, timeout=1200)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    for stage in stages:
        figures = json.loads((tmp_path / name / stage / "done.json").read_text())["metrics"]
        assert figures["watchdogs"] == []
        assert figures["entropy_end"] > 0


# ---------------------------------------------------------------- causes


def test_a_learning_rate_far_too_high(sft: str, tmp_path: Path) -> None:
    ran = prefer(tmp_path, sft, max_steps=10, learning_rate=5e-2, watch={"every": 2, **SMALL, **TELL})
    assert ran.fired >= {"chosen_drop", "repetition", "attention_logits", "log_z", "gradient_rms"}
    assert all(one["action"] == "warn" for one in ran.figures["watchdogs"])
    assert ran.figures["steps"] == 10  # it was only told


def test_pairs_that_contradict_each_other(sft: str, tmp_path: Path) -> None:
    """Every pair both ways: there is no margin to be won, and both answers fall."""
    rows = pair_rows(8)
    both = [
        one for row in rows for one in (row, {**row, "chosen": row["rejected"], "rejected": row["chosen"]})
    ]
    rules = {**TELL, "both_fall": {"patience": 1}}
    ran = prefer(tmp_path, sft, both, max_steps=10, learning_rate=1e-2, watch={"every": 10, **SMALL, **rules})
    assert "both_fall" in ran.fired
    assert ran.figures["rewards/margins"] < 1


def test_a_beta_that_leaves_nothing_to_learn(sft: str, tmp_path: Path) -> None:
    """Margins beyond any gradient: the pairs are saturated, and what is left is below AdamW's epsilon."""
    rules = {**TELL, "saturated": {"patience": 3}}
    ran = prefer(
        tmp_path, sft, max_steps=14, learning_rate=5e-3, beta=20.0, watch={"every": 2, **SMALL, **rules}
    )
    assert ran.fired >= {"saturated", "gradient_rms"}
    last = [line for line in ran.lines if "loss" in line][-1]
    assert last["watch/saturated"] > 0.95
    assert last["loss"] < 1e-3


def test_answers_that_repeat_themselves(sft: str, tmp_path: Path) -> None:
    """Chosen answers that say one word again and again, learned by heart."""
    again = [{"role": "assistant", "content": "no " * 12}]
    rows = [{**row, "chosen": again} for row in pair_rows(8)]
    given: dict[str, Any] = {"max_steps": 30, "learning_rate": 1e-2, "loss_type": "sft"}
    given["lr_scheduler_type"] = "constant"
    ran = prefer(tmp_path, sft, rows, **given, watch={"every": 15, **SMALL, **TELL})
    assert ran.fired >= {"repetition", "entropy"}
    assert "chosen_drop" not in ran.fired
    told = {one["watch"]: one for one in ran.figures["watchdogs"]}
    assert told["entropy"]["step"] == 30
    assert told["entropy"]["limit"] == 0.1 * ran.figures["entropy_start"]
    assert told["entropy"]["value"] < 0.08 * ran.figures["entropy_start"]
    assert told["repetition"]["step"] == 15  # seen long before the choice is gone


def test_weights_that_blow_up_attention_and_logits(sft: str, tmp_path: Path) -> None:
    """In the middle of a healthy training queries and keys grow by six, later the output by eight."""
    given = {"max_steps": 6, "learning_rate": 1e-5, "watch": {"every": 2, **SMALL, **TELL}}
    options, work, _ = prepared(tmp_path, sft, None, given)
    trainer = preference_trainer(options, sft, work)

    class Grow(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            model: Any = trainer.model
            with torch.no_grad():
                if state.global_step == 2:
                    for layer in model.model.layers:
                        layer.self_attn.q_proj.weight *= 6
                        layer.self_attn.k_proj.weight *= 6
                if state.global_step == 4:
                    model.model.norm.weight *= 8

    trainer.add_callback(Grow())
    trainer.train()
    assert trainer.watch is not None
    told = {one["watch"]: one for one in trainer.watch.figures()["watchdogs"]}
    assert told["attention_logits"]["step"] == 4
    # q and k six times as large; what the layer below passes on changes too.
    start = trainer.watch.figures()["attention_logits_start"]
    assert told["attention_logits"]["value"] > 12 * start
    assert told["attention_logits"]["limit"] == max(50.0, 4 * start)
    assert told["log_z"]["step"] == 6
    assert told["log_z"]["since"] == 5  # at step 4 it was still well


def test_a_gradient_that_leaps(sft: str, tmp_path: Path) -> None:
    """Steady steps, and then the output's scale grows by thirty: a squared loss feels it at once."""
    given = {"max_steps": 8, "learning_rate": 1e-5, "loss_type": "ipo", "watch": {"chosen_drop": False}}
    options, work, ran = prepared(tmp_path, sft, None, given)
    trainer = preference_trainer(options, sft, work)

    class Grow(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 6:
                model: Any = trainer.model
                with torch.no_grad():
                    model.model.norm.weight *= 30

    trainer.add_callback(Grow())
    trainer.train()
    assert trainer.watch is not None
    (fired, *_) = [one for one in trainer.watch.figures()["watchdogs"] if one["watch"] == "gradient_spike"]
    assert fired["step"] == 7
    assert fired["since"] == 6  # the weights that step 5 left were those of step 6, and well
    norms = [line["grad_norm"] for line in ran.lines if "grad_norm" in line]
    usual = sorted(norms[:6])
    assert fired["value"] == pytest.approx(norms[6] / ((usual[2] + usual[3]) / 2), rel=1e-4)


def test_a_loss_without_reference_is_watched_on_the_probe(sft: str, tmp_path: Path) -> None:
    watch = {"every": 2, **SMALL, **TELL, "both_fall": False}
    ran = prefer(tmp_path, sft, max_steps=4, learning_rate=5e-2, loss_type="simpo", watch=watch)
    assert "reference_gap" not in ran.figures
    fall = ran.figures["chosen_logps_start"] - ran.figures["chosen_logps_end"]
    measured = [line for line in ran.lines if line.get("event") == "watched"]
    assert measured[-1]["watch/chosen_logps"] == ran.figures["chosen_logps_end"]
    assert fall > 0
