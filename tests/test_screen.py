"""The screen of a run: what it says at two widths, and that it goes away."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from pipelines.screen import Live, sparkline, value_of
from tests.handmade import give_answers, heliograph, write_recipe

STAGES = [
    ("sft", "sft", True),
    ("collect", "judge", False),
    ("dpo", "prefer", False),
    ("evaluate", "evaluate", False),
]


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def drawn(live: Live, width: int, height: int = 40) -> str:
    console = Console(file=io.StringIO(), width=width, height=height, color_system=None, force_terminal=True)
    live.console = console
    with console.capture() as captured:
        console.print(live.render())
    return captured.get()


def at_work(width: int = 100) -> Live:
    clock = Clock()
    console = Console(file=io.StringIO(), width=width, height=40, color_system=None)
    live = Live(STAGES, "demo", console, clock)
    live.start("collect")
    live.done("collect", 0.4)
    live.start("dpo")
    figures: dict[str, float | None] = {
        "loss": 0.6931, "rewards/margins": 0.25, "rewards/accuracies": 0.875, "logps/chosen": -41.5,
        "logps/rejected": -50.25, "num_tokens": 1000.0, "memory": 1.26e9,
    }  # fmt: skip
    live.progress("dpo", 10, 40, "steps", figures)
    for step, loss in ((12, 0.6), (14, 0.5), (16, 0.4)):
        clock.now += 4
        live.progress("dpo", step, 40, "steps", {**figures, "loss": loss, "num_tokens": 1000.0 + 100 * step})
    live.close()
    return live


@pytest.mark.parametrize("width", [60, 110])
def test_everything_a_person_looks_for_is_on_it(width: int) -> None:
    text = drawn(at_work(width), width)
    assert max(map(len, text.splitlines())) <= width
    assert "heliograph  demo" in text
    assert "✓ sft" in text
    assert "✓ collect" in text
    assert "● dpo" in text
    assert "· evaluate" in text
    # Six steps in twelve seconds, twenty-four to go; 1600 tokens in the same time.
    assert "16/40 steps · 0.5 steps/s · 48 s left" in text
    words = " ".join(text.replace("│", " ").split())
    for told in ("loss 0.4", "margin 0.25", "pairs right 88%", "log p chosen −41.5", "log p rejected −50.25",
                 "tokens/s 133", "memory 1.3 GB"):  # fmt: skip
        assert told in words, told
    assert "█" in text


def test_many_stages_leave_room_for_the_one_at_work() -> None:
    live = Live(
        [(f"stage-{i}", "sft", i < 20) for i in range(40)], "demo", Console(file=io.StringIO()), Clock()
    )
    live.start("stage-20")
    live.close()
    text = drawn(live, 80, height=24)
    assert len(text.splitlines()) <= 24
    assert "● stage-20" in text
    assert "before" in text
    assert "to come" in text


def test_what_a_stage_says_scrolls_above_and_stays_as_it_is() -> None:
    screen = io.StringIO()
    live = Live([], "", Console(file=screen, force_terminal=True, width=120, color_system=None))
    live.start("sft")
    live.say("sft", "a [bold] word stays as it is")
    live.progress("sft", 3, 10, "steps", {"loss": None})
    live.done("sft", 2.0)
    live.close()
    live.close()
    text = screen.getvalue()
    assert "sft: a [bold] word stays as it is" in text
    assert "sft: done in 2.0 s" in text
    assert text.endswith("\x1b[?25h") or "\x1b[?25h" in text  # The cursor is back.


def test_a_curve_of_blocks() -> None:
    assert sparkline([0.0, 1.0, 2.0, 7.0], 10) == "▁▂▃█"
    assert sparkline([3.0, 3.0], 10) == "▁▁"
    assert len(sparkline([float(i) for i in range(1000)], 40)) == 40
    assert value_of("rewards/accuracies", 0.5) == "50%"
    assert value_of("loss", None) == "not finite"


def test_a_run_in_json_lines_prints_nothing_else(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path)
    give_answers(recipe, tmp_path / "runs")
    done = heliograph("run", "demo.yaml", "--json-lines", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines()]
    kinds = [event["event"] for event in events]
    assert kinds[0] == "note"
    assert kinds.index("start") < kinds.index("done") < kinds.index("end")
    assert kinds[-1] == "end"
    assert events[-1]["code"] == 0
    assert events[-1]["metrics"]["pick"]["pairs"] == 3
    assert all(event["time"] for event in events)
    (tmp_path / "runs" / "demo" / "pick" / "done.json").unlink()
    (tmp_path / "runs" / "demo" / "answers" / "rows.jsonl").write_text('{"id": 1}\n')
    failed = heliograph("run", "demo.yaml", "--json-lines", cwd=tmp_path)
    assert failed.returncode == 2
    last = json.loads(failed.stdout.splitlines()[-1])
    assert (last["event"], last["code"]) == ("end", 2)
    assert "no row of candidates" in last["what"]
