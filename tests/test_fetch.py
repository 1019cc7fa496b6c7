"""`heliograph fetch` against a hub on this machine, through the real clients; then the recipe without any network."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.fetching import wanted
from pipelines.recipe import load
from tests.fake_hub import Hub, serving
from tests.handmade import environment as process_environment
from tests.handmade import heliograph
from tests.training import sft_rows, write_rows
from trainers import aliases

RECIPE = """\
recipe: far
stages:
  - {name: sft, kind: sft, model: someone/tiny, data: someone/rows, max_steps: 1, per_device_train_batch_size: 2}
  - {name: answers, kind: sample, model: sft, prompts: someone/rows, max_new_tokens: 2}
  - {name: more, kind: sample, model: tiny, prompts: local.jsonl, max_new_tokens: 2}
"""


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    folder = tmp_path_factory.mktemp("hub")
    shutil.copytree(aliases.resolve("tiny"), folder / "tiny")
    # What only other programs read stays where it is.
    for name in ("pytorch_model.bin", "model.onnx", "tf_model.h5"):
        (folder / "tiny" / name).write_bytes(b"not wanted")
    (folder / "rows").mkdir()
    write_rows(folder / "rows" / "train.jsonl", sft_rows(6))
    with serving({"someone/tiny": folder / "tiny"}, {"someone/rows": folder / "rows"}) as found:
        yield found


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    write_rows(tmp_path / "local.jsonl", [{"prompt": "The lamp"}])
    path = tmp_path / "far.yaml"
    path.write_text(RECIPE)
    return path


def environment(home: Path, url: str, **more: str) -> dict[str, str]:
    return {"HF_HOME": str(home), "HF_ENDPOINT": url, "HF_HUB_OFFLINE": "0"} | more


def test_what_a_recipe_wants_is_told_once_with_the_stages(recipe: Path) -> None:
    found = {(one.what, one.name): one.stages for one in wanted(load(recipe))}
    assert found == {
        ("model", "someone/tiny"): ("sft",),
        ("dataset", "someone/rows"): ("sft", "answers"),
        ("alias", "tiny"): ("more",),
    }


@pytest.mark.slow
def test_it_brings_everything_once_and_then_needs_no_network(tmp_path: Path, recipe: Path, hub: Hub) -> None:
    home = tmp_path / "home"
    first = heliograph("fetch", recipe, cwd=tmp_path, env=environment(home, hub.url))
    assert first.returncode == 0, first.stderr
    lines = first.stdout.splitlines()
    wanted_files = {"config.json", "model.safetensors", "tokenizer.json"}
    there = {path.name for path in (home / "hub" / "models--someone--tiny").rglob("snapshots/*/*")}
    assert wanted_files <= there
    assert not {"pytorch_model.bin", "model.onnx", "tf_model.h5"} & there
    assert lines[0].startswith(f"model someone/tiny: {len(there)} of {len(there)} files came, ")
    assert lines[1] == "dataset someone/rows[train]: came, 6 rows"
    assert lines[2].startswith("alias tiny: ")
    assert lines[3] == "3 items ready; with HF_HUB_OFFLINE=1 the recipe needs no network"

    again = heliograph("fetch", recipe, cwd=tmp_path, env=environment(home, hub.url))
    assert again.stdout.splitlines()[0].startswith("model someone/tiny: there, in ")
    assert again.stdout.splitlines()[1] == "dataset someone/rows[train]: there, 6 rows"

    hub.asked.clear()
    offline = heliograph("fetch", recipe, cwd=tmp_path, env=environment(home, hub.url, HF_HUB_OFFLINE="1"))
    assert offline.returncode == 0, offline.stderr
    assert hub.asked == []


@pytest.mark.slow
def test_the_recipe_runs_offline_from_what_was_brought(tmp_path: Path, recipe: Path, hub: Hub) -> None:
    home = tmp_path / "home"
    fetched = heliograph("fetch", recipe, cwd=tmp_path, env=environment(home, hub.url))
    assert fetched.returncode == 0, fetched.stderr
    hub.asked.clear()
    offline = environment(home, hub.url, HF_HUB_OFFLINE="1")
    words = [sys.executable, "-m", "pipelines.cli", "run", str(recipe)]
    subprocess.run(words, cwd=tmp_path, env=process_environment() | offline, timeout=600, check=True)
    assert (tmp_path / "runs" / "far" / "answers" / "rows.jsonl").read_text().count("\n") == 6
    assert hub.asked == []


def test_what_cannot_be_had_is_told_with_its_stage(tmp_path: Path, recipe: Path, hub: Hub) -> None:
    env = environment(tmp_path / "home", hub.url)
    offline = heliograph("fetch", recipe, cwd=tmp_path, env=env | {"HF_HUB_OFFLINE": "1"})
    assert offline.returncode == 2
    assert offline.stderr.splitlines() == [
        "stages.sft: model someone/tiny is not in the cache, and HF_HUB_OFFLINE forbids to ask for it",
        "  Run this on a machine with a network, such as a login node, with the same HF_HOME.",
    ]
    recipe.write_text(RECIPE.replace("someone/tiny", "someone/absent"))
    absent = heliograph("fetch", recipe, cwd=tmp_path, env=env)
    assert absent.returncode == 2
    assert absent.stderr.startswith(f"stages.sft: model someone/absent cannot be had from {hub.url}: ")
    assert "Traceback" not in absent.stderr
    nobody = heliograph(
        "fetch", recipe, cwd=tmp_path, env=environment(tmp_path / "home", "http://127.0.0.1:9")
    )
    assert nobody.returncode == 2
    assert "cannot be had from http://127.0.0.1:9: " in nobody.stderr
    assert "Traceback" not in nobody.stderr
