"""A checkpoint is whole or it is not one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from trainers.training.checkpoints import SEAL, fault, newest, rotate, seal


def make(folder: Path, step: int, *, sealed: bool = True) -> Path:
    path = folder / f"checkpoint-{step}"
    (path / "inner").mkdir(parents=True)
    (path / "weights.bin").write_bytes(bytes(range(256)) * 40)
    (path / "inner" / "state.json").write_text('{"step": 1}')
    if sealed:
        seal(path)
    return path


def test_a_seal_holds_size_and_crc_of_every_file(tmp_path: Path):
    path = make(tmp_path, 1)
    files = json.loads((path / SEAL).read_text())["files"]
    # zlib.crc32(bytes(range(256)) * 40) and of the JSON text, computed apart from this program
    import binascii

    assert files == {
        "inner/state.json": [11, binascii.crc32(b'{"step": 1}')],
        "weights.bin": [10240, binascii.crc32(bytes(range(256)) * 40)],
    }
    assert fault(path) is None


@pytest.mark.parametrize(
    ("break_it", "why"),
    [
        (lambda p: (p / SEAL).unlink(), "it was not finished"),
        (lambda p: (p / SEAL).write_text('{"files": {"wei'), "sealed.json is damaged"),
        (lambda p: (p / "weights.bin").unlink(), "weights.bin is missing"),
        (lambda p: (p / "weights.bin").write_bytes(b"x" * 100), "weights.bin is damaged"),
        (lambda p: (p / "weights.bin").write_bytes(b"x" * 10240), "weights.bin is damaged"),
    ],
)
def test_a_broken_checkpoint_is_told_and_the_one_before_is_taken(tmp_path: Path, break_it, why: str):
    make(tmp_path, 9)
    break_it(make(tmp_path, 10))
    said: list[str] = []
    assert newest(tmp_path, said.append) == tmp_path / "checkpoint-9"
    assert said == [f"checkpoint-10 cannot be used ({why}); going back to the one before"]
    assert (tmp_path / "broken-checkpoint-10").is_dir()  # kept until the next whole one


def test_the_newest_is_the_highest_step_not_the_last_name(tmp_path: Path):
    for step in (2, 10, 9):
        make(tmp_path, step)
    assert newest(tmp_path, print) == tmp_path / "checkpoint-10"


def test_without_a_whole_checkpoint_there_is_none(tmp_path: Path):
    make(tmp_path, 1, sealed=False)
    assert newest(tmp_path, lambda _: None) is None
    assert newest(tmp_path / "nowhere", print) is None


def test_rotation_keeps_the_newest_and_clears_broken_ones(tmp_path: Path):
    for step in (1, 2, 3, 10):
        make(tmp_path, step)
    (tmp_path / "broken-checkpoint-4").mkdir()
    rotate(tmp_path, keep=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint-10", "checkpoint-3"]
