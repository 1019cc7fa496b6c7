"""The command: its verbs, exit codes, and what goes to which stream."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines import state
from tests.handmade import RECIPE, VOTES_RECIPE, environment, give_answers, heliograph, write_recipe


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = write_recipe(tmp_path)
    give_answers(path, tmp_path / "runs")
    return path


def test_help_lists_the_verbs(tmp_path: Path) -> None:
    done = heliograph("--help", cwd=tmp_path)
    assert done.returncode == 0
    for verb in ("validate", "plan", "run", "status", "doctor"):
        assert f" {verb} " in done.stdout
    assert "Exit codes: 0 done, 2 yours to mend, 75 waiting" in done.stdout


def test_version(tmp_path: Path) -> None:
    done = heliograph("--version", cwd=tmp_path)
    assert done.stdout.startswith("heliograph 0.1.0")


@pytest.mark.parametrize(
    "arguments", [["rnu"], ["run"], ["run", "x.yaml", "--nmae", "y"], ["validate"], ["status"], []]
)
def test_a_wrong_command_line_exits_2(tmp_path: Path, arguments: list[str]) -> None:
    done = heliograph(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_run_status_and_plan(recipe: Path) -> None:
    planned = json.loads(heliograph("plan", recipe.name, "--json", cwd=recipe.parent).stdout)
    assert [stage["state"] for stage in planned["stages"]] == ["done", "pending"]
    done = heliograph("run", recipe.name, cwd=recipe.parent)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "pick: done in" in done.stdout
    shown = json.loads(heliograph("status", "demo", "--json", cwd=recipe.parent).stdout)
    assert shown["run"] == "demo"
    names = [(stage["name"], stage["kind"], stage["state"]) for stage in shown["stages"]]
    assert names == [("answers", "sample", "done"), ("pick", "judge", "done")]
    assert shown["stages"][1]["metrics"]["pairs"] == 3
    assert heliograph("status", "runs/demo", cwd=recipe.parent).stdout.startswith("runs/demo\n")


def test_a_stale_stage_is_refused_without_a_traceback(recipe: Path) -> None:
    assert heliograph("run", recipe.name, cwd=recipe.parent).returncode == 0
    change = "stages.pick.min_margin=0.4"
    done = heliograph("run", recipe.name, change, cwd=recipe.parent)
    assert done.returncode == 2
    assert "stages.pick.min_margin: 0.1 -> 0.4" in done.stderr
    assert "Traceback" not in done.stderr
    planned = heliograph("plan", recipe.name, change, cwd=recipe.parent)
    assert planned.returncode == 0
    assert "stages.pick.min_margin: 0.1 -> 0.4" in planned.stdout
    other = heliograph("run", recipe.name, change, "--name", "other", "--only", "pick", cwd=recipe.parent)
    assert other.returncode == 2
    assert "answers is pending" in other.stderr


def test_waiting_exits_75(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, VOTES_RECIPE)
    give_answers(recipe, tmp_path / "runs")
    done = heliograph("run", recipe.name, cwd=tmp_path)
    assert done.returncode == 75
    assert done.stderr.startswith("pick waits: 3 prompts wait for votes")
    assert "votes.jsonl" in done.stderr
    shown = json.loads(heliograph("status", "demo", "--json", cwd=tmp_path).stdout)
    assert shown["stages"][1]["state"] == "waiting"
    assert "votes.jsonl" in shown["stages"][1]["waiting"]["what"]


def test_validate_says_ok_or_every_fault(recipe: Path) -> None:
    done = heliograph("validate", recipe.name, "--json", cwd=recipe.parent)
    assert (done.returncode, json.loads(done.stdout)) == (0, {"ok": True, "faults": []})
    recipe.write_text(RECIPE.replace("kind: judge", "kind: judge\n    min_margin: -1\n    pairng: all"))
    done = heliograph("validate", recipe.name, "--json", cwd=recipe.parent)
    answer = json.loads(done.stdout)
    assert done.returncode == 2
    assert answer["ok"] is False
    places = {(fault["line"], fault["path"]) for fault in answer["faults"]}
    assert {line for line, _ in places} == {10, 11}
    assert {path.split(".")[-1] for _, path in places} == {"min_margin", "pairng"}
    plain = heliograph("validate", recipe.name, cwd=recipe.parent)
    assert plain.returncode == 2
    assert f"{recipe.name}:10:" in plain.stderr
    assert "2 faults" in plain.stderr


def test_validate_without_a_file(recipe: Path) -> None:
    done = heliograph("validate", "dmo.yaml", "--json", cwd=recipe.parent)
    answer = json.loads(done.stdout)
    assert (done.returncode, answer["ok"], len(answer["faults"])) == (2, False, 1)
    assert "demo.yaml" in answer["faults"][0]["message"]
    plain = heliograph("validate", "dmo.yaml", cwd=recipe.parent)
    assert (plain.returncode, plain.stdout) == (2, "")
    assert "dmo.yaml: there is no such recipe" in plain.stderr


def test_notices_do_not_get_into_the_json(recipe: Path) -> None:
    old = RECIPE.replace("model: tiny", "model: tiny\n    torch_dtype: float32")
    recipe.write_text(old)
    done = heliograph("validate", recipe.name, "--json", cwd=recipe.parent)
    assert json.loads(done.stdout) == {"ok": True, "faults": []}
    assert "torch_dtype" in done.stderr


def test_the_schema_is_json(tmp_path: Path) -> None:
    schema = json.loads(heliograph("validate", "--schema", cwd=tmp_path).stdout)
    assert "judge" in json.dumps(schema)


def test_no_such_run_names_those_there_are(recipe: Path) -> None:
    assert heliograph("run", recipe.name, cwd=recipe.parent).returncode == 0
    done = heliograph("status", "dmo", cwd=recipe.parent)
    assert done.returncode == 2
    assert "The runs in runs are: demo." in done.stderr


def test_a_corrupt_record_is_no_crash(recipe: Path) -> None:
    assert heliograph("run", recipe.name, cwd=recipe.parent).returncode == 0
    (recipe.parent / "runs" / "demo" / "pick" / state.DONE).write_text("{")
    for verb in (("status", "demo"), ("plan", recipe.name), ("run", recipe.name)):
        done = heliograph(*verb, cwd=recipe.parent)
        assert done.returncode == 2
        assert "runs/demo/pick/done.json: the state file is corrupt" in done.stderr
        assert "Traceback" not in done.stderr


def test_an_unwritable_folder_is_told(recipe: Path) -> None:
    (recipe.parent / "closed").mkdir(mode=0o555)
    command = [sys.executable, "-m", "pipelines.cli", "run", recipe.name, "--runs-dir", "closed/runs"]
    if os.geteuid() == 0:  # Root may write anywhere, unless it gives that right up.
        if shutil.which("setpriv") is None:
            pytest.skip("root needs `setpriv` to be refused by a folder")
        command = ["setpriv", "--bounding-set=-dac_override", *command]
    done = subprocess.run(
        command, cwd=recipe.parent, env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stderr
    assert "closed/runs/demo: the run folder cannot be written: Permission denied" in done.stderr
    assert "--runs-dir DIR" in done.stderr
    assert "Traceback" not in done.stderr


def test_ctrl_c_before_anything_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipelines import cli

    def stop() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "app", stop)
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 130
