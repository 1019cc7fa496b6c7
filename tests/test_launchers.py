"""Accelerate's launcher configs: accelerate reads them, stages name them, and they train what one process trains."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trl
import yaml

from data.errors import RunError
from pipelines.cluster.launcher import FOLDER, NAMES, Group, config_file, words
from pipelines.recipe import load
from pipelines.run import snapshot
from tests.handmade import ROOT, environment, heliograph
from tests.training import pair_rows, sft_rows, weights, write_rows

PLACE = "  - {name: sft, kind: sft, model: tiny, data: sft.jsonl, resources: {gpus: 0, nodes: 2%s}}\n"
TYPES = {
    "single_gpu": "NO",
    "multi_gpu": "MULTI_GPU",
    "zero2": "DEEPSPEED",
    "zero3": "DEEPSPEED",
    "fsdp2": "FSDP",
}


def stage(folder: Path, config: str | None) -> Any:
    write_rows(folder / "sft.jsonl", sft_rows(2))
    recipe = folder / "one.yaml"
    recipe.write_text("recipe: one\nstages:\n" + PLACE % (f", accelerate_config: {config}" if config else ""))
    return load(recipe).stages[0]


@pytest.mark.parametrize("name", NAMES)
def test_accelerate_takes_each_file_with_the_words_we_give_it(name: str) -> None:
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser

    file = FOLDER / f"{name}.yaml"
    read = load_config_from_file(str(file))
    assert read.distributed_type == TYPES[name]
    assert read.mixed_precision == "no"  # The stage's own `bf16` decides.
    group = Group(1, 0, 1, "") if name == "single_gpu" else Group(2, 1, 4, "n1:20007")
    given = [*words(group, file)[2:], "-m", "pipelines.worker", "run", "sft"]
    args, _, _ = _validate_launch_command(launch_command_parser().parse_args(given))
    assert (args.num_machines, args.num_processes) == (group.nodes, group.nodes * group.processes)
    assert (args.module, args.training_script) == (True, "pipelines.worker")
    assert args.training_script_args == ["run", "sft"]
    if name != "single_gpu":
        assert (args.machine_rank, args.main_process_ip, args.main_process_port) == (1, "n1", 20007)
    assert (args.use_fsdp, args.use_deepspeed) == (name == "fsdp2", name.startswith("zero"))
    if name.startswith("zero"):
        assert args.zero_stage == int(name[-1])
    if name == "fsdp2":
        assert str(args.fsdp_version) == "2"
        assert str(args.fsdp_cpu_ram_efficient_loading).lower() == "false"


def test_they_have_trls_names_and_keys() -> None:
    theirs = Path(trl.__file__).parent / "accelerate_configs"
    assert {path.stem for path in FOLDER.glob("*.yaml")} == set(NAMES)
    for name in NAMES:
        ours, known = (yaml.safe_load((f / f"{name}.yaml").read_text()) for f in (FOLDER, theirs))
        assert ours["distributed_type"] == known["distributed_type"]
        assert set(ours) <= set(known)


def test_one_process_needs_no_launcher_and_several_meet_at_the_first_node() -> None:
    assert words(Group(1, 0, 1, ""), None) == ()
    assert words(Group(2, 1, 3, "n1:20007"), None) == (
        "-m", "torch.distributed.run", "--nnodes=2", "--node-rank=1", "--nproc-per-node=3", "--master-addr=n1",
        "--master-port=20007",
    )  # fmt: skip


def test_what_a_stage_may_name(tmp_path: Path) -> None:
    assert config_file(stage(tmp_path, None), tmp_path, 2) is None
    assert (
        config_file(stage(tmp_path, "zero3"), tmp_path, 2) == ROOT / "recipes" / "accelerate" / "zero3.yaml"
    )
    own = tmp_path / "mine.yaml"
    own.write_text("distributed_type: FSDP\n")
    assert config_file(stage(tmp_path, "mine.yaml"), tmp_path, 2) == own
    where = "stages.sft.resources.accelerate_config: "
    with pytest.raises(RunError, match="fsdp3 cannot be read") as caught:
        config_file(stage(tmp_path, "fsdp3"), tmp_path, 2)
    assert str(caught.value).startswith(where)
    assert "Name one of single_gpu, multi_gpu, zero2, zero3, fsdp2" in str(caught.value)
    own.write_text("num_processes: 2\n")
    with pytest.raises(RunError, match="names no `distributed_type`"):
        config_file(stage(tmp_path, "mine.yaml"), tmp_path, 2)
    with pytest.raises(RunError, match="single_gpu is for one process, and the stage asks for 2"):
        config_file(stage(tmp_path, "single_gpu"), tmp_path, 2)


def test_submit_refuses_what_no_job_could_start(tmp_path: Path) -> None:
    stage(tmp_path, "fsdp3")
    (tmp_path / "site.yaml").write_text("partition: p\n")
    done = heliograph("submit", "one.yaml", "--cluster", "site.yaml", "--dry-run", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("stages.sft.resources.accelerate_config: fsdp3 cannot be read")


RECIPE = """\
recipe: NAME
defaults: {seed: 3, max_length: 64, save_steps: 2, logging_steps: 1, max_steps: 3, learning_rate: 0.2,
  lr_scheduler_type: constant, per_device_train_batch_size: BATCH, training: {optim: sgd}RESOURCES}
stages:
  - {name: sft, kind: sft, model: tiny, data: sft.jsonl}
  - {name: dpo, kind: prefer, model: sft, pairs: pairs.jsonl, engine: padded, use_peft: true, lora_r: 4}
"""


def trained(folder: Path, name: str, config: str | None) -> Path:
    """As a job of two processes on one node, or here in one process with twice the batch."""
    resources = f", resources: {{nodes: 2, accelerate_config: {config}}}" if config else ""
    text = (
        RECIPE.replace("NAME", name).replace("BATCH", "4" if config else "8").replace("RESOURCES", resources)
    )
    (folder / f"{name}.yaml").write_text(text)
    run = folder / "runs" / name
    if config is None:
        words = [sys.executable, "-m", "pipelines.cli", "run", f"{name}.yaml"]
        subprocess.run(words, cwd=folder, env=environment(), timeout=600, check=True)
        return run
    (run / ".slurm").mkdir(parents=True)
    snapshot(load(folder / f"{name}.yaml"), run)
    env = environment() | {"PYTHONSAFEPATH": "1"}
    env["PYTHONPATH"] = os.pathsep.join([str(ROOT / "tests" / "fsdp_hook"), env["PYTHONPATH"]])
    for one in ("sft", "dpo"):
        with socket.create_server(("127.0.0.1", 0)) as free:
            master = f"127.0.0.1:{free.getsockname()[1]}"
        group = ["--nodes", "1", "--processes", "2", "--master", master, str(run), one]
        done = subprocess.run(
            [sys.executable, "-m", "pipelines.cluster.job", *group],
            cwd=folder, env=env, capture_output=True, text=True, timeout=600, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
    return run


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    write_rows(folder / "sft.jsonl", sft_rows())
    write_rows(folder / "pairs.jsonl", pair_rows())
    return trained(folder, "one", None)


@pytest.mark.slow
@pytest.mark.parametrize("config", ["multi_gpu", "fsdp2"])
def test_two_processes_of_a_launcher_train_what_one_trains(config: str, tmp_path: Path, alone: Path) -> None:
    """Full weights, then an adapter on them; every checkpoint on the way is written as well."""
    write_rows(tmp_path / "sft.jsonl", sft_rows())
    write_rows(tmp_path / "pairs.jsonl", pair_rows())
    run = trained(tmp_path, "two", config)
    for one in ("sft", "dpo"):
        found, expected = weights(run / one / "model"), weights(alone / one / "model")
        assert expected
        assert found.keys() == expected.keys()
        far = {name: float((found[name] - tensor).abs().max()) for name, tensor in expected.items()}
        assert max(far.values()) < 1e-5
    # It learned: B of an adapter starts at zero.
    moved = [float(t.abs().max()) for name, t in weights(run / "dpo" / "model").items() if "lora_B" in name]
    assert min(moved) > 1e-4
