"""What a person sees while stages work."""

from __future__ import annotations

import io
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


def test_a_terminal_gets_one_line_that_moves() -> None:
    from rich.console import Console

    screen = io.StringIO()
    live = progress.Live(Console(file=screen, force_terminal=True, width=120, color_system=None))
    live.start("sft")
    live.say("sft", "a [bold] word stays as it is")
    live.progress("sft", 3, 10, "steps", {"loss": 0.5})
    live.bar.refresh()
    live.start("dpo")
    live.close()
    live.close()
    text = screen.getvalue()
    assert "sft: a [bold] word stays as it is" in text
    assert "3/10 steps, loss 0.5" in text
    assert "dpo" in text


def test_without_a_terminal_lines_go_to_whoever_takes_them(capsys: pytest.CaptureFixture[str]) -> None:
    lines = list[str]()
    progress.watch(lines.append).start("sft")
    assert lines == ["sft: started"]
    progress.watch().start("dpo")
    assert capsys.readouterr().out == "dpo: started\n"
