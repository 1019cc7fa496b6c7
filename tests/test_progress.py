"""What a person sees while stages work."""

from __future__ import annotations

import json
import math

import pytest

from pipelines import progress


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_rate_and_time_left_count_from_where_this_attempt_began() -> None:
    clock = Clock()
    pace = progress.Pace(clock)
    assert pace.update("dpo", "steps", 40, 100) is None
    clock.now += 5
    assert pace.update("dpo", "steps", 50, 100) == (2.0, 25.0)
    clock.now += 5
    assert pace.update("dpo", "rows", 1, 10) is None  # Another unit is another piece of work.
    clock.now += 1
    rate, left = pace.update("dpo", "rows", 3, None) or (0.0, 0.0)
    assert rate == 2.0
    assert math.isnan(left)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (200, "3 min 20 s"), (7500, "2 h 05 min")],
)  # fmt: skip
def test_durations_as_people_say_them(seconds: float, text: str) -> None:
    assert progress.duration(seconds) == text


def test_a_line_has_steps_figures_rate_and_time_left() -> None:
    line = progress.describe(12, 40, "steps", {"loss": 0.69314, "reward": None}, (1.5, 18.7))
    assert line == "12/40 steps, loss 0.6931, reward not finite, 1.5 steps/s, 19 s left"
    assert progress.describe(1200, None, "rows", {}, (1500.0, math.nan)) == "1200 rows, 1,500 rows/s"


def test_plain_lines_are_few() -> None:
    clock, lines = Clock(), list[str]()
    plain = progress.Plain(lines.append, clock)
    plain.start("sft")
    for step in range(1, 1201):  # Twenty minutes, a step a second.
        clock.now += 1
        plain.progress("sft", step, 1200, "steps", {"loss": 1.0})
    assert lines[0] == "sft: started"
    assert lines[1] == "sft: 60/1200 steps, loss 1, 1 steps/s, 19 min 00 s left"
    assert len(lines) == 1 + 20
    assert "1200/1200 steps" in lines[-1]


def test_a_quick_stage_prints_no_steps_and_a_medium_one_every_ten_seconds() -> None:
    clock, lines = Clock(), list[str]()
    plain = progress.Plain(lines.append, clock)
    plain.start("sft")
    for step in range(1, 91):
        clock.now += 0.1
        plain.progress("sft", step, 90, "steps", {})
    assert lines == ["sft: started"]
    plain.start("dpo")
    for step in range(1, 31):
        clock.now += 1
        plain.progress("dpo", step, 30, "steps", {})
    assert [line.split(" steps")[0] for line in lines[2:]] == ["dpo: 10/30", "dpo: 20/30", "dpo: 30/30"]


def test_what_a_stage_says_is_shown_at_once() -> None:
    lines = list[str]()
    progress.Plain(lines.append, Clock()).say("sft", "dtype: float32 (CPU)")
    assert lines == ["sft: dtype: float32 (CPU)"]


def test_figures_for_the_screen_alone_do_not_stand_in_lines() -> None:
    clock, lines = Clock(), list[str]()
    plain = progress.Plain(lines.append, clock)
    plain.start("dpo")
    clock.now += 61
    figures: dict[str, float | None] = {"loss": 0.5, "num_tokens": 900.0, "memory": 2e9, "logps/chosen": -4.0}
    plain.progress("dpo", 5, 10, "steps", figures)
    assert lines[1:] == ["dpo: 5/10 steps, loss 0.5"]
    plain.done("dpo", 3.25)
    assert lines[2:] == ["dpo: done in 3.2 s"]


def test_tokens_per_second_go_over_what_was_logged() -> None:
    clock = Clock()
    rates = progress.Rates(clock)
    assert rates.update("dpo", "steps", 1, 10, {"num_tokens": 100.0}) == (None, None, None)
    clock.now += 2
    # No new count was logged: two steps in two seconds, and nothing to say about tokens.
    assert rates.update("dpo", "steps", 3, 10, {"num_tokens": 100.0}) == (1.0, 7.0, None)
    clock.now += 2
    assert rates.update("dpo", "steps", 5, 10, {"num_tokens": 900.0}) == (1.0, 5.0, 200.0)
    # The next stage counts from its own beginning.
    assert rates.update("sft", "steps", 1, 10, {"num_tokens": 10.0}) == (None, None, None)


def test_json_lines_hold_every_event_and_only_json() -> None:
    clock, lines = Clock(), list[str]()
    told = progress.JsonLines(lines.append, clock)
    told.note("sft: done, 3 min ago")
    told.note("")
    told.start("dpo")
    told.say("dpo", 'a "quoted" word')
    told.progress("dpo", 1, 4, "steps", {"loss": 0.5})
    clock.now += 2
    told.progress("dpo", 2, 4, "steps", {"loss": float("nan"), "num_tokens": None})
    told.done("dpo", 4.5)
    told.close()
    found = [json.loads(line) for line in lines]
    assert [one["event"] for one in found] == ["note", "start", "say", "progress", "progress", "done"]
    assert found[2]["line"] == 'a "quoted" word'
    last = {key: found[4][key] for key in ("done", "total", "unit", "figures", "per_second", "seconds_left")}
    assert last == {
        "done": 2, "total": 4, "unit": "steps", "figures": {"loss": None, "num_tokens": None},
        "per_second": 0.5, "seconds_left": 4.0,
    }  # fmt: skip
    assert found[5]["seconds"] == 4.5


def test_without_a_terminal_lines_go_to_whoever_takes_them(capsys: pytest.CaptureFixture[str]) -> None:
    lines = list[str]()
    progress.watch(lines.append).start("sft")
    assert lines == ["sft: started"]
    progress.watch().start("dpo")
    assert capsys.readouterr().out == "dpo: started\n"
