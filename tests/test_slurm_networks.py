"""Two nodes with a network each, on a real SLURM: what only works over one localhost does not work here."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from pipelines.cluster import records as job_records
from tests.handmade import ROOT, environment
from tests.slurm_cluster import CANNOT
from tests.training import sft_rows, weights, write_rows

pytestmark = pytest.mark.slurm

RECIPE = """\
recipe: NAME
defaults: {seed: 3, max_length: 64, save_steps: 2, max_steps: 3, learning_rate: 0.2, lr_scheduler_type: constant}
stages:
  - {name: sft, kind: sft, model: tiny, data: sft.jsonl, per_device_train_batch_size: BATCH, training: {optim: sgd}MORE}
"""
SITE = """\
partition: main
cpus: 1
setup: |
  echo "$(hostname) is $(getent hosts "$(hostname)"); n1 is $(getent hosts n1)"
"""
UNTIL_IDLE = 'while [ -n "$(squeue --noheader)" ]; do sleep 0.5; done'


def written(folder: Path, name: str, batch: int, more: str = "") -> Path:
    write_rows(folder / "sft.jsonl", sft_rows())
    recipe = folder / f"{name}.yaml"
    recipe.write_text(RECIPE.replace("NAME", name).replace("BATCH", str(batch)).replace("MORE", more))
    return recipe


def test_two_nodes_find_each_other_and_train_what_one_trains(tmp_path: Path) -> None:
    recipe = written(tmp_path, "apart", 4, ", resources: {nodes: 2}")
    (tmp_path / "site.yaml").write_text(SITE)
    submit = f"{sys.executable} -m pipelines.cli submit {recipe} --cluster site.yaml && {UNTIL_IDLE}"
    with tempfile.TemporaryDirectory(prefix="hgn", dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        done = subprocess.run(
            ["bash", ROOT / "tests" / "cluster" / "netns.sh", f"{folder}/c", "bash", "-euc", submit],
            cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=500, check=False,
        )  # fmt: skip
    if done.returncode == CANNOT:
        pytest.skip(done.stderr.strip().splitlines()[-1])
    assert done.returncode == 0, done.stdout + done.stderr
    run = tmp_path / "runs" / "apart"
    (output,) = (run / ".slurm").glob("sft-*.out")
    told = output.read_text()
    assert [a.how for a in job_records.attempts(run, "sft")] == ["done"], told
    # Nobody of them took a name of this machine's for the meeting point.
    for i in (1, 2):
        assert f"n{i} is 10.77.0.1{i}" in told
    assert "n1 is 127." not in told

    alone = written(tmp_path, "alone", 8)
    words = [sys.executable, "-m", "pipelines.cli", "run", str(alone)]
    subprocess.run(words, cwd=tmp_path, env=environment(), timeout=600, check=True)
    found, expected = weights(run / "sft" / "model"), weights(tmp_path / "runs" / "alone" / "sft" / "model")
    assert expected
    assert found.keys() == expected.keys()
    assert max(float((found[name] - expected[name]).abs().max()) for name in expected) < 1e-5
