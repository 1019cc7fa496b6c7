"""Walking the stages: what is skipped, refused, set aside, built and shown."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from data.errors import RecipeError, RunError
from pipelines import state, summary
from pipelines.launch import Ended
from pipelines.plan import dependents, plan
from pipelines.recipe import load
from pipelines.run import Request, run
from pipelines.stage import Waiting
from tests.handmade import BUILD, RECIPE, VOTES_RECIPE, candidates, give_answers, write_recipe

TWO_PICKS = (
    RECIPE
    + """\
  - name: again
    kind: judge
    candidates: answers
    pairing: all
    critic:
      kind: rubric
      checks: [{check: regex, pattern: bad}]
"""
)


class Runner:
    """`heliograph run` in this process; the worker is a process all the same."""

    def __init__(self, folder: Path, text: str = RECIPE) -> None:
        self.recipe = write_recipe(folder, text)
        self.runs = folder / "runs"
        self.run_dir = give_answers(self.recipe, self.runs)
        self.lines: list[str] = []
        self.notices: list[str] = []

    def __call__(self, *overrides: str, **options: str) -> int:
        self.lines.clear()
        self.notices.clear()
        request = Request(
            self.recipe, overrides, runs_dir=self.runs, command="heliograph run demo.yaml", **options
        )
        return run(request, self.lines.append, self.notices.append)

    def done(self, stage: str) -> state.Done:
        found = state.read(self.run_dir / stage / state.DONE, state.Done)
        assert found is not None
        return found

    def states(self) -> dict[str, str]:
        return {item.name: item.state for item in plan(load(self.recipe, ()), self.run_dir)}


@pytest.fixture
def runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runner:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return Runner(tmp_path)


@pytest.fixture
def finished(runner: Runner) -> Runner:
    assert runner() == 0
    return runner


def test_a_run_builds_what_is_missing_and_shows_it(runner: Runner) -> None:
    assert runner.states() == {"answers": "done", "pick": "pending"}
    assert runner() == 0
    assert runner.lines[:2] == ["answers: done, just now", "pick: started"]
    done = runner.done("pick")
    assert done.inputs == {"answers": BUILD}
    assert done.config["candidates"] == "answers"
    rows = (runner.run_dir / "pick" / "rows.jsonl").read_text().splitlines()
    assert [json.loads(row)["chosen"].strip() for row in rows] == ["good 0", "good 1", "good 2"]
    shown = "\n".join(runner.lines)
    assert f"pick rows: {runner.run_dir / 'pick' / 'rows.jsonl'}" in shown
    assert "pairs 3" in shown
    assert (runner.run_dir / "recipe.yaml").read_text() == RECIPE


def test_a_second_run_redoes_nothing(finished: Runner) -> None:
    before = (finished.run_dir / "pick" / state.DONE).stat().st_mtime_ns
    assert finished() == 0
    assert finished.lines[:2] == ["answers: done, just now", "pick: done, just now"]
    assert (finished.run_dir / "pick" / state.DONE).stat().st_mtime_ns == before


def test_changes_are_refused_all_together(finished: Runner) -> None:
    snapshot = (finished.run_dir / state.RECIPE).read_bytes()
    (finished.recipe.parent / "prompts.jsonl").write_text('{"prompt": "Another."}\n')
    with pytest.raises(RunError) as caught:
        finished("stages.pick.min_margin=0.5", "stages.pick.pairing=all")
    told = str(caught.value)
    assert "stages.pick.min_margin: 0.1 -> 0.5" in told
    assert "stages.pick.pairing: best_worst -> all" in told
    assert "prompts.jsonl: content changed" in told
    assert "--from answers" in told
    assert "--name NEW" in told
    assert "change the value back" in told
    assert (finished.run_dir / state.RECIPE).read_bytes() == snapshot
    assert finished.done("pick").config["min_margin"] == 0.1


def test_a_cosmetic_change_is_none(finished: Runner) -> None:
    assert finished("stages.answers.batch_size=1") == 0
    assert finished.lines[1] == "pick: done, just now"


def test_from_sets_aside_and_builds_again(finished: Runner) -> None:
    old = finished.done("pick").build
    assert finished("stages.pick.min_margin=0.5", from_stage="pick") == 0
    aside = finished.run_dir / ".replaced" / f"pick-{old}"
    assert f"pick: set aside as {aside}" in finished.lines
    kept = state.read(aside / state.DONE, state.Done)
    assert kept is not None
    assert kept.config["min_margin"] == 0.1
    assert finished.done("pick").config["min_margin"] == 0.5
    assert finished.done("pick").build != old
    assert finished.done("answers").build == BUILD


def test_from_builds_what_depends_on_it_too(tmp_path: Path) -> None:
    runner = Runner(tmp_path, TWO_PICKS)
    assert runner() == 0
    recipe = load(runner.recipe, ())
    assert dependents(recipe, "answers") == ["answers", "pick", "again"]
    assert dependents(recipe, "pick") == ["pick"]
    again = runner.done("again").build
    assert runner(from_stage="pick") == 0
    assert runner.done("again").build == again


def test_a_rebuilt_input_makes_what_read_it_stale(finished: Runner) -> None:
    give_answers(finished.recipe, finished.runs, build="fedcba987654")
    assert finished.states() == {"answers": "done", "pick": "stale"}
    with pytest.raises(RunError, match=r"stages\.pick: its input answers was rebuilt"):
        finished()


def test_a_missing_input_makes_what_read_it_stale(finished: Runner) -> None:
    (finished.run_dir / "answers" / state.DONE).unlink()
    planned = plan(load(finished.recipe, ()), finished.run_dir)
    assert [item.state for item in planned] == ["pending", "stale"]
    assert planned[1].reasons == ("stages.pick: its input answers is not finished",)


def test_an_attempt_begun_with_other_values_is_refused_too(runner: Runner) -> None:
    assert runner() == 0
    (runner.run_dir / "pick" / state.DONE).unlink()
    with pytest.raises(RunError, match=r"stages.pick.min_margin: 0.1 -> 0.5"):
        runner("stages.pick.min_margin=0.5")
    assert runner() == 0
    assert "pick: goes on (interrupted)" in runner.lines


def test_an_attempt_that_made_nothing_is_begun_anew_and_told(runner: Runner) -> None:
    rows = runner.run_dir / "answers" / "rows.jsonl"
    right = rows.read_bytes()
    rows.write_text("{\n")
    with pytest.raises(RunError):
        runner()
    first = state.read(runner.run_dir / "pick" / state.STARTED, state.Started)
    scratch = runner.run_dir / "pick" / "scratch"
    scratch.mkdir()
    (scratch / "train.arrow").write_text("tokenised with the old values")
    rows.write_bytes(right)
    assert runner("stages.pick.min_margin=0.5") == 0
    assert (
        "pick: begins anew, the last attempt made nothing to keep:\n  stages.pick.min_margin: 0.1 -> 0.5"
        in runner.lines
    )
    assert first is not None
    assert runner.done("pick").build != first.build
    assert runner.done("pick").config["min_margin"] == 0.5
    assert not scratch.exists()


@pytest.mark.parametrize(
    "made", ["rows.jsonl.part", "model/adapter.safetensors", "scratch/checkpoints/checkpoint-5/a"]
)
def test_an_attempt_that_made_something_is_not(runner: Runner, made: str) -> None:
    folder = runner.run_dir / "pick"
    (runner.run_dir / "answers" / "rows.jsonl").write_text("{\n")
    with pytest.raises(RunError):
        runner()
    (folder / made).parent.mkdir(parents=True, exist_ok=True)
    (folder / made).write_text("costly")
    with pytest.raises(RunError, match=r"stages\.pick\.min_margin: 0\.1 -> 0\.5"):
        runner("stages.pick.min_margin=0.5")
    assert (folder / made).read_text() == "costly"


def test_only_runs_one_stage_and_needs_its_inputs(tmp_path: Path) -> None:
    runner = Runner(tmp_path, TWO_PICKS)
    assert runner(only="again") == 0
    assert runner.states() == {"answers": "done", "pick": "pending", "again": "done"}
    os.rename(runner.run_dir / "answers", tmp_path / "gone")
    with pytest.raises(RunError, match="its inputs are not done: answers is pending"):
        runner(only="pick")


@pytest.mark.parametrize("option", ["only", "from_stage"])
def test_an_unknown_stage_is_told_with_the_nearest(runner: Runner, option: str) -> None:
    with pytest.raises(RunError, match="no stage `picks`") as caught:
        runner(**{option: "picks"})
    assert caught.value.way_out == "Did you mean `pick`?"


def test_only_and_from_exclude_each_other(runner: Runner) -> None:
    with pytest.raises(RunError, match="exclude each other"):
        runner(only="pick", from_stage="pick")


@pytest.mark.parametrize("name", ["../out", "a/b", "", ".hidden", "-x"])
def test_a_run_s_name_stays_in_its_folder(runner: Runner, name: str) -> None:
    with pytest.raises(RunError, match="cannot be the name of a run"):
        runner(name=name)


def test_a_corrupt_record_is_refused_and_from_gets_past_it(finished: Runner) -> None:
    path = finished.run_dir / "pick" / state.DONE
    path.write_text(path.read_text()[:100])
    with pytest.raises(RunError, match="corrupt or half-written") as caught:
        finished()
    assert caught.value.where == str(path)
    assert finished(from_stage="pick") == 0
    assert finished.done("pick").metrics["pairs"] == 3


def test_people_are_waited_for_and_the_same_command_goes_on(tmp_path: Path) -> None:
    runner = Runner(tmp_path, VOTES_RECIPE)
    with pytest.raises(Waiting) as caught:
        runner()
    assert caught.value.what.startswith("pick waits: 3 prompts wait for votes")
    assert "run the same command again" in caught.value.how
    assert runner.states() == {"answers": "done", "pick": "waiting"}
    votes = [{"id": f"p{i}", "chosen": 0, "rejected": 1} for i in range(3)]
    (tmp_path / "votes.jsonl").write_text("".join(json.dumps(vote) + "\n" for vote in votes))
    assert runner() == 0
    assert runner.states() == {"answers": "done", "pick": "done"}
    assert runner.done("pick").metrics["pairs"] == 3
    votes[1] = {"id": "p1", "chosen": 1, "rejected": 0}
    (tmp_path / "votes.jsonl").write_text("".join(json.dumps(vote) + "\n" for vote in votes))
    with pytest.raises(RunError, match=r"votes\.jsonl"):
        runner()  # a vote that was changed afterwards is told, like every other input


def test_a_failure_is_raised_with_its_place_and_tried_again(runner: Runner) -> None:
    (runner.run_dir / "answers" / "rows.jsonl").write_text('{"id": "p0", "prompt"')
    with pytest.raises(RunError) as caught:
        runner()
    assert "rows.jsonl:1" in (caught.value.where or "")
    assert runner.states()["pick"] == "failed"
    rows = "".join(json.dumps(row) + "\n" for row in candidates())
    (runner.run_dir / "answers" / "rows.jsonl").write_text(rows)
    assert runner() == 0
    assert not (runner.run_dir / "pick" / state.FAILED).exists()


def test_a_crash_is_told_in_a_few_lines_and_exits_1(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """How a real worker crashes is in test_launch.py."""
    failed = state.Failed(
        what="KeyError: 'a'", where="stages.pick", way_out="Try again.", trace="x/trace.txt", time="", exit=1
    )
    monkeypatch.setattr("pipelines.run.launch", lambda *_: Ended(1, "pick", failed=failed))
    assert runner() == 1
    assert runner.notices == ["crashed: stages.pick: KeyError: 'a'\n  traceback: x/trace.txt\n  Try again."]


def test_folders_of_other_recipes_are_told_and_left(finished: Runner) -> None:
    os.rename(finished.run_dir / "pick", finished.run_dir / "older")
    assert finished() == 0
    assert "older: not a stage of this recipe; left as it is" in finished.lines
    assert (finished.run_dir / "older" / state.DONE).exists()


def test_a_wrong_recipe_touches_nothing(finished: Runner) -> None:
    before = sorted(finished.run_dir.rglob("*"))
    with pytest.raises(RecipeError):
        finished("stages.pick.min_margin=-1")
    assert sorted(finished.run_dir.rglob("*")) == before


def test_a_stage_s_own_lines_are_printed(finished: Runner) -> None:
    done = finished.done("pick")
    metrics = {"lines": ["label  score", "before  0.25"], "table": [["label", "score"]], "score": 0.251234}
    state.write(
        finished.run_dir / "pick" / state.DONE, done.model_copy(update={"metrics": metrics, "seconds": 200})
    )
    assert finished() == 0
    at = finished.lines.index("label  score")
    assert finished.lines[at + 1] == "before  0.25"
    assert "pick     done   3 min 20 s  score 0.2512" in finished.lines


def test_headlines_are_the_first_figures() -> None:
    metrics = {"rows": 1200, "table": [], "loss": 0.123456, "ok": True, "best": "dpo", "rest": 1.0}
    assert summary.headline(metrics) == "rows 1,200, loss 0.1235, ok True, best dpo"


def test_ages() -> None:
    from datetime import UTC, datetime, timedelta

    def ago(**past: float) -> str:
        return summary.ago((datetime.now(UTC) - timedelta(**past)).isoformat())

    assert ago(seconds=3) == "just now"
    assert ago(minutes=3, seconds=5) == "3 min ago"
    assert ago(hours=5) == "5 h ago"
    assert ago(days=4) == "4 days ago"
    assert summary.ago("yesterday") == "yesterday"
