"""Each rule of the watchdogs against arithmetic written out, without a model."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from data.errors import RunError
from trainers.training.checkpoints import rotate, seal, up_to
from trainers.training.watch_config import PreferWatch, UnlearnWatch
from trainers.watchdogs.attention_logits import largest_logit
from trainers.watchdogs.budget import Plan, Size, least, plan, probe_cost, sizes, step_cost
from trainers.watchdogs.rules import (
    Firing,
    Measured,
    Norms,
    Reading,
    Streak,
    both_fall,
    falls,
    readings,
    repetition,
)
from trainers.watchdogs.saturation import Saturation, steepness
from trainers.watchdogs.state import WatchState, read_state, write_state
from trainers.watchdogs.words import SEEN, WAY_OUT


def rules(options: Any) -> dict[str, Any]:
    return {name: options.rule(name) for name in SEEN if options.rule(name) is not None}


def test_what_both_lose_counts_less_what_the_margin_wins() -> None:
    assert both_fall(0.2, 1.0) == pytest.approx(0.2 - 0.8)  # preference training at work
    assert both_fall(1.0, 1.1) == pytest.approx(1.0 - 0.1)
    assert both_fall(1.0, 0.4) == pytest.approx(0.4)  # the margin shrinks: all that both lost
    assert both_fall(-0.5, 2.0) == pytest.approx(-0.5 - 2.5)
    assert both_fall(0.7, 0.7) == pytest.approx(0.7)


def test_falls_against_the_default_limits() -> None:
    found = falls(rules(PreferWatch()), 2.1, 2.2)
    assert found["chosen_drop"] == Reading(2.1, 2.0)
    assert found["chosen_drop"].beyond
    assert found["both_fall"].value == pytest.approx(2.1 - 0.1)
    assert found["both_fall"].beyond
    assert not any(one.beyond for one in falls(rules(PreferWatch()), 0.3, 1.5).values())
    assert falls(rules(PreferWatch(chosen_drop=False, both_fall=False)), 9.0, 9.0) == {}


def test_a_value_that_is_no_number_is_beyond_every_bound() -> None:
    assert Reading(math.nan, 1.0).beyond
    assert Reading(math.nan, 1.0, below=True).beyond
    assert Reading(0.9, 1.0, below=True).beyond
    assert not Reading(1.0, 1.0).beyond


def test_a_streak_fires_once_until_it_comes_back() -> None:
    streak, high, low = Streak(), Reading(2.0, 1.0), Reading(0.5, 1.0)
    fired = [streak.add(step, one, 3) for step, one in enumerate([low, high, high, low, high, high, high], 1)]
    assert fired == [False] * 6 + [True]
    assert streak.quiet == 4  # so the fault may have begun at step 5
    assert not streak.add(8, high, 3)
    assert not streak.add(9, low, 3)
    assert [streak.add(step, high, 3) for step in (10, 11, 12)] == [False, False, True]
    assert streak.quiet == 9


def test_what_is_usual_is_the_larger_median() -> None:
    norms = Norms()
    assert [norms.times_usual(norm) for norm in (1.0, 2.0, 3.0, 4.0, 10.0)] == [None] * 5
    assert norms.times_usual(30.0) == pytest.approx(30 / 3)  # the median of 1 2 3 4 10
    for _ in range(40):
        norms.times_usual(0.01)  # the gradients die down
    # The first 20 norms are 1 2 3 4 10 30 and 14 times 0.01; with the last 20 all 0.01, so are both medians.
    assert norms.times_usual(0.3) == pytest.approx(0.3 / 0.01)
    steady = Norms()
    for _ in range(20):
        steady.times_usual(2.0)
    for _ in range(20):
        steady.times_usual(0.01)
    assert steady.times_usual(3.0) == pytest.approx(
        3 / 2
    )  # against what it was, not against what is left of it
    assert steady.times_usual(math.inf) == math.inf
    assert math.inf not in steady.last


def test_repetition_counts_grams_that_came_before() -> None:
    assert repetition([[1, 2, 3, 4, 5]]) == 0
    assert repetition([[1] * 8]) == pytest.approx(1 - 1 / 5)
    assert repetition([[1, 2, 3], [7] * 5]) == pytest.approx((0 + 0.5) / 2)
    assert repetition([[1, 2] * 4]) == pytest.approx(1 - 2 / 5)
    assert repetition([]) == 0


START = Measured(0, 0.2, 2.0, 9.0, 10.0, utility=0.5)


def beyond(options: Any, now: Measured, *, forgets: bool = False) -> set[str]:
    found = readings(rules(options), now, START, forgets=forgets)
    return {name for name, reading in found.items() if reading.beyond}


def test_measured_figures_against_the_start() -> None:
    watch = PreferWatch()
    assert beyond(watch, START) == set()
    assert beyond(watch, Measured(9, 0.49, 0.21, 168.9, 50.0)) == set()  # sqrt(168.9) - sqrt(9) = 9.996
    assert beyond(watch, Measured(9, 0.51, 2.0, 9.0, 10.0)) == {"repetition"}  # 0.2 + 0.3
    assert beyond(watch, Measured(9, 0.2, 0.19, 9.0, 10.0)) == {"entropy"}  # a tenth of 2
    assert beyond(watch, Measured(9, 0.2, 2.0, 169.1, 10.0)) == {"log_z"}  # 13 - 3 nats
    assert beyond(watch, Measured(9, 0.2, 2.0, 9.0, 50.1)) == {
        "attention_logits"
    }  # the floor; 4 x 10 is lower
    small = PreferWatch.model_validate({"attention_logits": {"floor": 0}})
    assert beyond(small, Measured(9, 0.2, 2.0, 9.0, 39.9)) == set()
    assert beyond(small, Measured(9, 0.2, 2.0, 9.0, 40.1)) == {"attention_logits"}
    assert beyond(watch, Measured(9, math.nan, math.nan, math.nan, math.nan)) >= {"repetition", "entropy"}
    off = PreferWatch(repetition=False, entropy=False, log_z=False, attention_logits=False)
    assert readings(rules(off), START, START, forgets=False) == {}


def test_unlearning_looks_at_what_is_to_stay() -> None:
    watch = UnlearnWatch()

    def now(utility: float, repeated: float = 0.2, entropy: float = 2.0) -> set[str]:
        return beyond(watch, Measured(9, repeated, entropy, 9.0, 10.0, utility), forgets=True)

    assert now(0.36) == set()
    assert now(0.34) == {"utility_drop"}  # 0.7 x 0.5 = 0.35
    assert now(math.nan) == {"utility_drop"}
    assert now(0.5, repeated=0.51) == {"repetition"}
    assert now(0.49, entropy=0.19) == {"entropy"}
    assert now(0.9, entropy=0.01) == set()  # surer, and right


def test_without_reference_the_probe_tells_the_falls() -> None:
    start = Measured(0, chosen_logps=-1.0, rejected_logps=-2.0)
    found = readings(
        rules(PreferWatch()), Measured(5, chosen_logps=-3.5, rejected_logps=-4.25), start, forgets=False
    )
    assert found["chosen_drop"].value == 2.5
    assert found["both_fall"].value == 2.25  # min(2.5, 2.25); the margin shrinks


# ---------------------------------------------------------------- what measuring costs


WHOLE, SMALLEST = Size(4, 32, 0), Size(2, 12, 8)


def near(value: float) -> Any:
    return pytest.approx(value)


def planned(steps: int, step: float, *, prompt: float = 75.0, floor: float = 32.0) -> Plan | None:
    return plan(steps, 20, step, WHOLE, SMALLEST, lambda size: probe_cost(size, prompt, 0.0, floor))


def test_a_pass_of_few_tokens_costs_as_one_of_more() -> None:
    # SmolLM2-135M: 30 layers of 0.4 ms at 25 billion multiplications a second, one of them a weight and token.
    assert least("cpu", 30, 134_515_008) == pytest.approx(32 + 30 * 0.4e-3 * 25e9 / 134_515_008)
    assert least("cuda", 32, 8 * 10**9) == pytest.approx(300 + 32 * 0.8e-3 * 150e12 / 8e9)
    assert step_cost(444, 1, 37) == 3 * 444
    assert step_cost(10, 4, 37) == 3 * 4 * 37
    assert probe_cost(Size(4, 32, 0), 75, 0, 37) == 4 * 75 + 32 * 37
    assert probe_cost(Size(2, 12, 8), 5, 90, 37) == 37 + 12 * 37 + 8 * 90
    assert probe_cost(Size(64, 12, 0), 5, 90, 37) == 64 * 5 + 12 * 64


def test_a_probe_is_halved_and_halved_again() -> None:
    assert list(sizes(Size(4, 32, 32), SMALLEST)) == [(4, 32, 32), (2, 16, 16), (2, 12, 8)]
    # What a recipe writes stays as it is.
    assert list(sizes(Size(8, 64, 6), Size(8, 12, 8))) == [(8, 64, 6), (8, 32, 6), (8, 16, 6)]


def test_how_often_is_measured() -> None:
    assert planned(19, 1e9) is None  # fewer steps than lie between two measurements
    # A long stage of long steps: all of the probe, at every twentieth of the steps.
    whole = 4 * 75 + 32 * 32
    assert planned(1000, 4000) == Plan(50, WHOLE, 21, near(21 * whole / 4e6))
    # 300 steps of 1332 are 399,600, of which 3 % pay for nine; the first is before the first step.
    assert planned(300, 1332) == Plan(38, WHOLE, 9, near(9 * whole / 399_600))
    # 30 steps: one, or one of half the size, or two of a quarter.
    assert 0.03 * 30 * 1332 / whole < 1
    assert 0.03 * 30 * 1332 / (2 * 75 + 16 * 32) < 2
    assert planned(30, 1332) == Plan(30, Size(2, 12, 0), 2, near(2 * (2 * 75 + 12 * 32) / (30 * 1332)))
    assert planned(30, 800) is None
    # Enough of half the size is better than two of the whole.
    found = planned(100, 1332)
    assert found == Plan(20, Size(2, 16, 0), 6, near(6 * (2 * 75 + 16 * 32) / 133_200))


@pytest.mark.parametrize("steps", [20, 21, 57, 333, 10_000])
@pytest.mark.parametrize("step", [100.0, 2000.0, 9e4])
def test_the_budget_is_kept(steps: int, step: float) -> None:
    found = planned(steps, step)
    if found is None:
        assert 2 * probe_cost(SMALLEST._replace(rows=0), 75, 0, 32) > 0.03 * steps * step
        return
    looked = {0, steps, *range(found.every, steps, found.every)}
    assert len(looked) == found.measurements >= 2
    assert found.share <= 0.03
    assert found.every >= 20


# ---------------------------------------------------------------- what the figures are made of


def test_the_steepness_of_dpo_is_its_sigmoid() -> None:
    from trainers import losses

    margins = torch.tensor([0.0, 1.0, 60.0])
    pairs = losses.Pairs(
        margins, torch.zeros(3), torch.ones(3), torch.ones(3), torch.zeros(3), torch.zeros(3)
    )
    settings = losses.Settings(beta=0.1)
    found = steepness(losses.terms(["sigmoid"], None, 0.0), pairs, settings)
    expected = [0.1 / (1 + math.exp(0.1 * margin)) for margin in margins.tolist()]
    assert found.tolist() == pytest.approx(expected, rel=1e-5)
    # The likelihood of the chosen answers moves no rejected one.
    assert steepness(losses.terms(["sft"], None, None), pairs, settings).tolist() == [0, 0, 0]
    saturation = Saturation()
    assert saturation.flat(found).item() == 0
    saturation.steepest = saturation.seen
    assert saturation.steepest == pytest.approx(0.05)
    assert saturation.flat(found).item() == 1  # sigmoid(-6) / sigmoid(0) is 0.005
    assert saturation.share(1.0, 3.0) == pytest.approx(1 / 3)


def test_the_largest_attention_logit_is_one_that_is_seen() -> None:
    query, key = torch.zeros(1, 1, 3, 4), torch.zeros(1, 1, 3, 4)
    query[0, 0, 0, 0], query[0, 0, 2, 1] = 2.0, 3.0
    key[0, 0, 2, 0] = 100.0  # the first token does not see the third
    key[0, 0, 1, 1] = 5.0
    assert largest_logit(query, key, None, None) == pytest.approx(3 * 5 / 2)
    assert largest_logit(query, key, torch.ones(1, 1, 3, 3, dtype=torch.bool), 1.0) == 200.0
    several = torch.cat((query, query * 2), dim=1)  # two query heads share one key head
    assert largest_logit(several, key, None, None) == pytest.approx(3 * 5)


# ---------------------------------------------------------------- what is kept, and what may be written


def test_the_state_is_what_was_saved(tmp_path: Path) -> None:
    state = WatchState(start=START, last=Measured(4, math.nan), steepest=0.05, roll_backs=1)
    state.streak("repetition").add(3, Reading(1.0, 0.5), 1)
    state.norms.times_usual(2.0)
    state.firings.append(Firing("log_z", 3, None, 10.0, "warn", 1))
    write_state(state, tmp_path)
    found = read_state(tmp_path)
    assert found.last == Measured(4)  # a number that is none is null in JSON
    found.last = state.last
    assert found == state
    json.loads((tmp_path / "watchdogs.json").read_text(), parse_constant=pytest.fail)
    with pytest.raises(RunError, match="written without watchdogs"):
        read_state(tmp_path / "nowhere")


def test_rotation_spares_the_last_good_checkpoint(tmp_path: Path) -> None:
    for step in (2, 4, 6, 8, 10):
        (tmp_path / f"checkpoint-{step}").mkdir()
        seal(tmp_path / f"checkpoint-{step}")
    rotate(tmp_path, 2, spared=5)
    assert [path.name for path in up_to(tmp_path, None)] == ["checkpoint-10", "checkpoint-8", "checkpoint-4"]
    rotate(tmp_path, 2, spared=9)
    assert [path.name for path in up_to(tmp_path, None)] == ["checkpoint-10", "checkpoint-8"]


def test_a_limit_alone_keeps_the_rest_of_a_rule() -> None:
    watch = PreferWatch.model_validate({"chosen_drop": {"limit": 1}, "log_z": False, "saturated": True})
    assert (watch.rule("chosen_drop").limit, watch.rule("chosen_drop").action) == (1, "stop")
    assert watch.rule("log_z") is None
    assert watch.rule("saturated").limit == 0.95
    assert UnlearnWatch().rule("chosen_drop") is None
    assert set(rules(PreferWatch())) | set(rules(UnlearnWatch())) == set(SEEN) == set(WAY_OUT)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"chosen_drop": {"action": "explode"}}, "action"),
        ({"repetition": {"limit": 2}}, "limit"),
        ({"utility_drop": {}}, "utility_drop"),  # preference training has no such watch
    ],
)
def test_what_a_recipe_may_not_say(value: Any, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        PreferWatch.model_validate(value)


def test_former_names_are_told_with_what_to_write() -> None:
    with pytest.raises(
        ValidationError, match=r"`max_utility_drop` is written `utility_drop: \{limit: ...\}`"
    ):
        UnlearnWatch.model_validate({"max_utility_drop": 0.5})
