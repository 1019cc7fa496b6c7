"""What the store gives back is what was put in, or nothing: through kills, torn and altered files, and full disks."""

from __future__ import annotations

import errno
import hashlib
import json
import multiprocessing
import os
import pickle
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.errors import ModelError, TrainingError
from trainers.store import folders as token_folders
from trainers.store import records as token_records
from trainers.store.folders import prune, size_on_disk
from trainers.store.records import Region, decode, encode, scan
from trainers.store.tokens import MAX_OPEN, TokenStore, key

IDENTITY = {"weights": "abc", "dtype": "float32", "shape": [1, 2]}
HEADER, CHECK = 8 + 32 + 8 + 4 + 4, 4


def name(i: int) -> bytes:
    return hashlib.sha256(str(i).encode()).digest()


def numbers(i: int, writer: float = 0.0) -> np.ndarray:
    """0 to 4 values, of both widths in turn, different for every i."""
    kind = np.float32 if i % 2 else np.float64
    return (-(np.arange(i % 5) + i / 7) - writer).astype(kind)


def same(found: np.ndarray, wanted: np.ndarray) -> bool:
    return found.dtype == wanted.dtype and found.tobytes() == wanted.tobytes()


def filled(folder: Path, count: int) -> TokenStore:
    store = TokenStore(folder, IDENTITY)
    for i in range(count):
        store.add(name(i), numbers(i))
    store.close()
    return store


def segment(store: TokenStore) -> Path:
    (only,) = store.folder.glob("*.tokens")
    return only


def bounds(count: int) -> list[tuple[int, int]]:
    """Where the records of `filled` stand, from the sizes of what is in them."""
    ends = np.cumsum([HEADER + numbers(i).nbytes + CHECK for i in range(count)]).tolist()
    return list(zip([0, *ends], ends, strict=False))


def test_key_is_the_hash_of_counts_and_tokens() -> None:
    written = b"".join(n.to_bytes(8, "little", signed=True) for n in (2, 5, -100, 3, 1, 0, 2**40))
    assert key([5, -100], [1, 0, 2**40]) == hashlib.sha256(written).digest()
    assert key(np.array([5, -100]), (1, 0, 2**40)) == hashlib.sha256(written).digest()  # pyright: ignore
    with pytest.raises(struct.error):
        key([0.5], [1])  # pyright: ignore[reportArgumentType]


ids = st.lists(st.integers(0, 3), max_size=4)


@given(ids, ids, ids, ids)
def test_keys_are_equal_where_tokens_and_their_cut_are(
    a: list[int], b: list[int], c: list[int], d: list[int]
) -> None:
    assert (key(a, b) == key(c, d)) == ((a, b) == (c, d))
    assert key(a + b, []) == key([*a, *b], [])
    assert (key(a + b, []) == key(a, b)) == (b == [])


def test_values_come_back_bit_by_bit_and_cannot_be_written(tmp_path: Path) -> None:
    values = {
        name(0): np.array([-0.0, np.finfo(np.float32).tiny / 8, -1e-30, 3.4e38], np.float32),
        name(1): np.array([-0.1, 5e-324, 1.7e308], np.float64),
        name(2): np.array([], np.float32),
        name(3): np.arange(20, dtype=np.float64)[::-3],
    }
    store = TokenStore(tmp_path, IDENTITY)
    for one, wanted in values.items():
        store.add(one, wanted)
        assert store.read(one).tolist() == wanted.tolist()
    store.flush()
    again = TokenStore(tmp_path, IDENTITY)
    assert len(again) == len(store) == 4
    assert again.damaged == 0
    assert again.faults() == []
    for one, wanted in values.items():
        found = again.read(one)
        assert same(found, wanted)
        assert found.flags.aligned
        with pytest.raises(ValueError, match="read-only"):
            found[:1] = 0


def test_missing_names_each_key_once(tmp_path: Path) -> None:
    store = filled(tmp_path, 2)
    assert store.missing([name(5), name(0), name(6), name(5), name(1), name(6), name(7)]) == [0, 2, 6]
    assert name(1) in store
    assert name(5) not in store
    with pytest.raises(ModelError, match=f"no values are stored for key {name(5).hex()[:12]}"):
        store.read(name(5))


def test_the_first_values_of_a_key_stay(tmp_path: Path) -> None:
    a, b = TokenStore(tmp_path, IDENTITY), TokenStore(tmp_path, IDENTITY)
    a.add(name(0), np.array([-1.0]))
    size = size_on_disk(tmp_path)
    a.add(name(0), np.array([-2.0]))
    assert size_on_disk(tmp_path) == size
    b.add(name(0), np.array([-3.0]))  # b has not seen a's
    a.refresh()
    b.refresh()
    assert [a.read(name(0)).item(), b.read(name(0)).item()] == [-1.0, -3.0]
    # The older file counts for all who open it later.
    assert [TokenStore(tmp_path, IDENTITY).read(name(0)).item() for _ in range(3)] == [-1.0] * 3


def test_what_cannot_be_stored_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    store = TokenStore(tmp_path, IDENTITY)
    for bad in (np.nan, np.inf, -np.inf):
        with pytest.raises(ModelError, match=r"1 of 3 values for key \w+… are not finite"):
            store.add(name(0), np.array([-1, bad, -2], np.float32))
    for wrong in (np.zeros((1, 2), np.float32), *(np.zeros(2, kind) for kind in ("f2", ">f4", "i8", "O"))):
        with pytest.raises(TypeError, match="one dimension of float32 or float64"):
            store.add(name(0), wrong)
    with pytest.raises(ValueError, match="32 bytes, not 3"):
        store.add(b"abc", np.zeros(1))
    assert len(store) == 0
    assert list(store.folder.glob("*.tokens")) == []


values = st.one_of(
    st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), max_size=6).map(
        lambda x: np.array(x, np.float32)
    ),
    st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=6).map(
        lambda x: np.array(x, np.float64)
    ),
)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.one_of(
            st.tuples(ids, ids, values),
            st.sampled_from(["reopen", "pickle", "refresh", "close", "other process"]),
        ),
        max_size=25,
    )
)
def test_it_is_a_dictionary_that_keeps_what_came_first(steps: list[tuple | str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = other = TokenStore(Path(folder), IDENTITY)
        wanted: dict[bytes, np.ndarray] = {}
        for step in steps:
            match step:
                case "reopen":
                    store = TokenStore(Path(folder), IDENTITY)
                case "pickle":
                    store = pickle.loads(pickle.dumps(store))
                case "refresh":
                    store.refresh()
                case "close":
                    store.close()
                case "other process":
                    store, other = other, store
                    store.refresh()
                case (prompt, completion, found):
                    store.add(key(prompt, completion), found)
                    wanted.setdefault(key(prompt, completion), found)
            assert len(store) == len(wanted)
            assert store.missing(wanted) == []
            assert all(same(store.read(one), value) for one, value in wanted.items())
            assert store.damaged == 0


def test_no_flip_of_a_byte_yields_a_wrong_value(tmp_path: Path) -> None:
    """All 255 other values of each byte: the record that it stands in is gone, the others are there."""
    count = 4
    path = segment(filled(tmp_path, count))
    data, places = path.read_bytes(), bounds(count)
    assert places[-1][1] == len(data)
    with path.open("rb+", buffering=0) as file:
        for at in range(len(data)):
            (hit,) = (i for i, (a, b) in enumerate(places) if a <= at < b)
            for flip in range(1, 256):
                os.pwrite(file.fileno(), bytes([data[at] ^ flip]), at)
                entries, lost = scan(file.fileno(), 0, len(data))
                assert lost == [Region(*places[hit])]
                assert [one.key for one in entries] == [name(i) for i in range(count) if i != hit]
            altered = TokenStore(tmp_path, IDENTITY)
            assert altered.missing(map(name, range(count))) == [hit]
            assert all(same(altered.read(name(i)), numbers(i)) for i in range(count) if i != hit)
            assert altered.damaged == len(altered.faults()) == 1
            os.pwrite(file.fileno(), data[at : at + 1], at)
    # What was damaged is added again, and it alone.
    path.write_bytes(data[:10] + b"\0" + data[11:])
    mended = TokenStore(tmp_path, IDENTITY)
    for i in mended.missing(map(name, range(count))):
        mended.add(name(i), numbers(i))
    mended.close()
    again = TokenStore(tmp_path, IDENTITY)
    assert all(same(again.read(name(i)), numbers(i)) for i in range(count))
    assert len(again) == count
    assert again.damaged == 1
    assert f"{path}: {places[0][1]} bytes from byte 0 on are damaged" in again.faults()[0]


def test_a_file_cut_at_any_byte_keeps_the_whole_records_before(tmp_path: Path) -> None:
    count = 6
    path = segment(filled(tmp_path, count))
    data, places = path.read_bytes(), bounds(count)
    for cut in range(len(data) + 1):
        path.write_bytes(data[:cut])
        store = TokenStore(tmp_path, IDENTITY)
        whole = sum(end <= cut for _, end in places)
        assert store.missing(map(name, range(count))) == list(range(whole, count))
        assert all(same(store.read(name(i)), numbers(i)) for i in range(whole))
        torn = cut not in {0, *(end for _, end in places)}
        assert store.damaged == torn
        assert [
            f"ends within a record ({cut - places[whole][0]} bytes)" in line for line in store.faults()
        ] == ([True] * torn)
        # The rest of it arrives: nothing was written off for good.
        path.write_bytes(data)
        store.refresh()
        assert (len(store), store.damaged) == (count, 0)
        assert all(same(store.read(name(i)), numbers(i)) for i in range(count))


def test_what_arrives_out_of_order_is_found_later(tmp_path: Path) -> None:
    """A network file system may show the end of a file before its middle, which reads as zeros until then."""
    path = segment(filled(tmp_path, 5))
    data, (start, end) = path.read_bytes(), bounds(5)[2]
    path.write_bytes(data[:start] + bytes(end - start) + data[end:])
    store = TokenStore(tmp_path, IDENTITY)
    assert (store.missing(map(name, range(5))), store.damaged) == ([2], 1)
    path.write_bytes(data)
    store.refresh()
    assert (len(store), store.damaged, store.faults()) == (5, 0, [])
    assert same(store.read(name(2)), numbers(2))


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_no_cutting_and_pasting_yields_a_wrong_value(data: st.DataObject) -> None:
    """Parts removed, doubled, moved or overwritten: what is found is right."""
    with tempfile.TemporaryDirectory() as folder:
        count = 12
        path = segment(filled(Path(folder), count))
        whole = path.read_bytes()
        for _ in range(data.draw(st.integers(1, 4))):
            a, b, at = sorted(data.draw(st.tuples(*[st.integers(0, len(whole))] * 3)))
            put = data.draw(st.one_of(st.just(b""), st.binary(max_size=90), st.just(whole[b:at])))
            whole = whole[:a] + put + whole[b:]
        path.write_bytes(whole)
        store = TokenStore(Path(folder), IDENTITY)
        found = [i for i in range(count) if name(i) in store]
        assert len(found) == len(store)
        assert all(same(store.read(name(i)), numbers(i)) for i in found)
        # And what still stands there in one piece is found.
        for i in range(count):
            assert (encode(name(i), numbers(i)) in whole) == (i in found)


def test_numbers_do_not_pass_for_those_of_another_record() -> None:
    a, b = (encode(name(i), np.array([i, i], np.float32)) for i in (1, 2))
    mixed = a[:HEADER] + b[HEADER:]
    assert decode(name(1), mixed) is None
    assert decode(name(2), a) is None
    assert decode(name(1), a) is not None
    assert decode(name(1), a + b"\0") is None


def test_how_much_is_read_at_once_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Marks across the border of what is read, and a system that gives less than was asked for."""
    path = segment(filled(tmp_path, 8))
    places = bounds(8)
    data = bytearray(path.read_bytes())
    for hit in (1, 2, 5):
        data[places[hit][0] + 58] ^= 1
    path.write_bytes(data)
    pread = os.pread
    with path.open("rb") as file:
        for window in range(8, 200):
            monkeypatch.setattr(token_records, "WINDOW", window)
            monkeypatch.setattr(os, "pread", lambda fd, size, at: pread(fd, min(size, 40), at))
            entries, lost = scan(file.fileno(), 0, len(data))
            assert [(one.start, one.start + one.size) for one in entries] == [
                places[i] for i in (0, 3, 4, 6, 7)
            ]
            assert lost == [Region(places[1][0], places[2][1]), Region(*places[5])]
    store = TokenStore(tmp_path, IDENTITY)
    assert all(same(store.read(name(i)), numbers(i)) for i in (0, 3, 4, 6, 7))


def test_a_record_larger_than_what_is_read_at_once(tmp_path: Path) -> None:
    store = TokenStore(tmp_path, IDENTITY)
    large = np.random.default_rng(0).standard_normal(3_000_000)  # 24 MB; the reader takes 8 at a time
    for i, one in enumerate((np.ones(1), large, np.zeros(1))):
        store.add(name(i), one)
    store.flush()
    again = TokenStore(tmp_path, IDENTITY)
    assert same(again.read(name(1)), large)
    path = segment(store)
    with path.open("rb+") as file:
        file.seek(20_000_000)
        file.write(b"\1\2\3")
    damaged = TokenStore(tmp_path, IDENTITY)
    assert damaged.missing(map(name, range(3))) == [1]
    assert damaged.read(name(2)).tolist() == [0.0]
    # An open store finds the damage when it reads.
    with pytest.raises(ModelError, match="were damaged after the store was opened"):
        again.read(name(1))


WRITER = """
import sys
from pathlib import Path
from tests.test_token_store import IDENTITY, name, numbers
from trainers.store.tokens import TokenStore
folder, first, last, each, shift = Path(sys.argv[1]), *map(float, sys.argv[2:])
store = TokenStore(folder, IDENTITY)
print("open", flush=True)
sys.stdin.readline()
for i in range(int(first), int(last)):
    store.add(name(i), numbers(i, shift))
    if (i + 1) % each == 0:
        store.flush()
        print(i + 1, flush=True)
store.flush()
"""


def writer(folder: Path, *numbers: float) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(folder), *map(str, numbers)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "open\n"
    return process


def go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def test_kill_9_loses_at_most_what_was_not_flushed(tmp_path: Path) -> None:
    for round_ in range(3):
        process = writer(tmp_path, 0, 10_000_000, 100, 0)
        go(process)
        assert process.stdout is not None
        for _ in range(5 + round_):
            process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        rest = process.communicate()[0]
        assert process.returncode == -signal.SIGKILL
        told = [int(line) for line in rest.splitlines() if line.endswith("00")]
        flushed = max([500 + 100 * round_, *told])
        store = TokenStore(tmp_path, IDENTITY)
        assert flushed <= len(store) < 10_000_000
        assert store.missing(map(name, range(len(store)))) == []
        assert all(same(store.read(name(i)), numbers(i)) for i in range(len(store)))
        shutil.rmtree(tmp_path)


def test_two_processes_write_at_once_while_a_third_reads(tmp_path: Path) -> None:
    reader = TokenStore(tmp_path, IDENTITY)
    both = [writer(tmp_path, 0, 3000, 50, 0), writer(tmp_path, 2000, 5000, 50, 0.5)]
    for one in both:
        go(one)
    seen: set[int] = set()
    while any(one.poll() is None for one in both):
        reader.refresh()
        found = {i for i in range(5000) if name(i) in reader}
        assert seen <= found
        for i in sorted(found - seen):
            assert any(same(reader.read(name(i)), numbers(i, shift)) for shift in (0, 0.5))
        seen = found
        time.sleep(0.01)
    assert [one.wait() for one in both] == [0, 0]
    for one in both:
        one.communicate()
    reader.refresh()
    assert (len(reader), reader.damaged) == (5000, 0)
    assert len(list(reader.folder.glob("*.tokens"))) == 2
    fresh = [TokenStore(tmp_path, IDENTITY) for _ in range(2)]
    for i in range(5000):
        shifts = [0] if i < 2000 else [0.5] if i >= 3000 else [0, 0.5]
        assert any(same(reader.read(name(i)), numbers(i, shift)) for shift in shifts)
        assert same(fresh[0].read(name(i)), fresh[1].read(name(i)))


def test_a_forked_child_reads_and_writes_beside_its_parent(tmp_path: Path) -> None:
    store = TokenStore(tmp_path, IDENTITY)
    store.add(name(0), numbers(0))
    store.read(name(0))

    def child() -> None:
        assert same(store.read(name(0)), numbers(0))
        store.add(name(1), numbers(1))
        store.close()

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    store.add(name(2), numbers(2))
    process.join()
    assert process.exitcode == 0
    store.add(name(3), numbers(3))
    store.refresh()
    again = TokenStore(tmp_path, IDENTITY)
    for one in (store, again):
        assert (len(one), one.damaged) == (4, 0)
        assert all(same(one.read(name(i)), numbers(i)) for i in range(4))


def test_a_store_travels_to_spawned_workers(tmp_path: Path) -> None:
    store = TokenStore(tmp_path, IDENTITY)
    for i in range(8):
        store.add(name(i), numbers(i))
        store.read(name(i))
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        found = list(pool.map(store.read, map(name, range(8))))
    assert all(same(found[i], numbers(i)) for i in range(8))


def test_more_files_than_are_kept_open(tmp_path: Path) -> None:
    count = MAX_OPEN + 6
    for i in range(count):
        store = TokenStore(tmp_path, IDENTITY)
        store.add(name(i), numbers(i))
        store.close()
    store = TokenStore(tmp_path, IDENTITY)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(2):
        assert all(same(store.read(name(i)), numbers(i)) for i in range(count))
    assert len(os.listdir("/proc/self/fd")) - before == MAX_OPEN
    store.close()
    assert len(os.listdir("/proc/self/fd")) == before
    assert same(store.read(name(1)), numbers(1))
    del store
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "heliograph-test", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
    except OSError as fault:
        pytest.skip(f"a small file system needs `mount`: {fault}")
    if done.returncode:
        pytest.skip(f"a small file system needs the right to mount: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_costs_nothing_but_the_call(small_disk: Path) -> None:
    filler = small_disk / "filler"
    filler.write_bytes(bytes(300_000))
    store = TokenStore(small_disk, IDENTITY)
    large = np.random.default_rng(0).standard_normal((40, 5000))  # 40 kB each
    stored = 0

    def fill() -> None:
        nonlocal stored
        while True:
            store.add(name(stored), large[stored])
            stored += 1

    with pytest.raises(TrainingError, match="No space left on device; what was added before stays") as told:
        fill()
    assert str(store.folder) in str(told.value)
    assert 12 <= stored <= 18  # (1 MiB - 300 kB) / 40 kB, less the pages that files waste
    with pytest.raises(TrainingError):
        store.add(name(stored), large[stored])
    for one in (store, TokenStore(small_disk, IDENTITY)):
        assert (len(one), one.damaged) == (stored, 0)
        assert all(same(one.read(name(i)), large[i]) for i in range(stored))
    filler.unlink()
    store.add(name(stored), large[stored])
    store.flush()
    again = TokenStore(small_disk, IDENTITY)
    assert (len(again), again.damaged) == (stored + 1, 0)
    assert all(same(again.read(name(i)), large[i]) for i in range(stored + 1))


def test_a_disk_full_from_the_start(small_disk: Path) -> None:
    with (small_disk / "filler").open("wb", buffering=0) as file:
        while file.write(bytes(4096)) == 4096 and os.statvfs(small_disk).f_bavail:
            pass
    with pytest.raises(ModelError, match="No space left on device"):
        TokenStore(small_disk, IDENTITY)
    (small_disk / "filler").unlink()
    store = TokenStore(small_disk, IDENTITY)
    assert [path.name for path in store.folder.iterdir()] == ["identity.json"]


def test_what_the_disk_did_not_take_is_missing_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = TokenStore(tmp_path, IDENTITY)
    store.add(name(0), numbers(0))
    store.flush()
    store.add(name(1), numbers(1))
    reader = TokenStore(tmp_path, IDENTITY)
    assert len(reader) == 2

    def broken(_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", broken)
        with pytest.raises(TrainingError, match="Input/output error; what was added since the last flush"):
            store.flush()
    reader.refresh()
    for one in (store, reader, TokenStore(tmp_path, IDENTITY)):
        assert one.missing([name(0), name(1)]) == [1]
        assert (same(one.read(name(0)), numbers(0)), one.damaged) == (True, 0)
    store.add(name(1), numbers(1))
    store.flush()
    assert same(TokenStore(tmp_path, IDENTITY).read(name(1)), numbers(1))


def test_a_folder_that_vanishes_is_told(tmp_path: Path) -> None:
    store = filled(tmp_path, 3)
    store.add(name(3), numbers(3))
    shutil.rmtree(store.folder)
    with pytest.raises(ModelError, match="was removed while values were added"):
        store.flush()
    with pytest.raises(ModelError, match="No such file"):
        store.read(name(0))
    with pytest.raises(ModelError, match="No such file"):
        store.refresh()
    assert len(TokenStore(tmp_path, IDENTITY)) == 0
    store.refresh()
    assert store.missing(map(name, range(4))) == [0, 1, 2, 3]
    store.add(name(0), numbers(0))
    assert same(TokenStore(tmp_path, IDENTITY).read(name(0)), numbers(0))


def test_a_file_that_cannot_be_read_is_told_and_the_others_serve(tmp_path: Path) -> None:
    store = filled(tmp_path, 3)
    (store.folder / "0.tokens").mkdir()
    again = TokenStore(tmp_path, IDENTITY)
    assert len(again) == 3
    assert again.damaged == 1
    (line,) = again.faults()
    assert line.startswith(f"{store.folder / '0.tokens'}: cannot be read (Is a directory)")


def test_faults_are_a_few_lines(tmp_path: Path) -> None:
    path = segment(filled(tmp_path, 20))
    data = bytearray(path.read_bytes())
    for start, _ in bounds(20)[::2]:
        data[start] ^= 1
    path.write_bytes(data)
    store = TokenStore(tmp_path, IDENTITY)
    assert store.missing(map(name, range(20))) == list(range(0, 20, 2))
    assert store.damaged == 10
    assert len(store.faults()) == 6
    assert store.faults()[-1] == "and 5 more places like these"


def test_identity_names_the_folder_and_is_checked(tmp_path: Path) -> None:
    store = filled(tmp_path, 1)
    text = '{"format":1,"identity":{"dtype":"float32","shape":[1,2],"weights":"abc"}}'
    assert store.folder.name == hashlib.sha256(text.encode()).hexdigest()[:32]
    file = store.folder / "identity.json"
    assert json.loads(file.read_text()) == json.loads(text)
    assert len(TokenStore(tmp_path, dict(reversed(IDENTITY.items())))) == 1
    other = TokenStore(tmp_path, {**IDENTITY, "dtype": "bfloat16"})
    assert len(other) == 0
    assert other.folder != store.folder
    shutil.copy(other.folder / "identity.json", file)
    with pytest.raises(ModelError, match="other weights or another arithmetic") as told:
        TokenStore(tmp_path, IDENTITY)
    assert (told.value.where, told.value.way_out) == (
        str(file),
        f"Remove {store.folder}: what it holds is measured again.",
    )
    for broken in (b"", b"{", b"\xff\xfe"):
        file.write_bytes(broken)
        with pytest.raises(ModelError, match="cannot be read as JSON"):
            TokenStore(tmp_path, IDENTITY)
    file.unlink()
    assert len(TokenStore(tmp_path, IDENTITY)) == 1
    for bad in ({"a": object()}, {"a": Path("x")}):
        with pytest.raises(TypeError, match="not JSON serializable"):
            TokenStore(tmp_path, bad)
    with pytest.raises(ValueError, match="not JSON compliant"):
        TokenStore(tmp_path, {"a": float("nan")})


def age(store: TokenStore, hours: float) -> None:
    then = time.time() - 3600 * hours
    for file in (*store.folder.iterdir(), store.folder):
        os.utime(file, (then, then))


def test_prune_removes_what_was_not_used_for_longest(tmp_path: Path) -> None:
    stores = [TokenStore(tmp_path, {"number": i}) for i in range(5)]
    for store in stores:
        store.add(name(0), np.zeros(1000))
        store.close()
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_bytes(bytes(100_000))
    half = tmp_path / f"{'0' * 32}.{'1' * 32}.removed"
    shutil.copytree(stores[0].folder, half)
    for store, hours in zip(stores, (3, 5, 2, 4, 0.5), strict=True):
        age(store, hours)
    each = size_on_disk(stores[0].folder)
    assert each == (stores[0].folder / "identity.json").stat().st_size + HEADER + 8000 + CHECK
    TokenStore(tmp_path, {"number": 3})  # Opened, and so used.
    assert prune(tmp_path, 4 * each) == [stores[1].folder]
    assert not half.exists()
    assert prune(tmp_path, 4 * each) == []
    assert prune(tmp_path, 0) == [stores[0].folder, stores[2].folder]
    assert sorted(path for path in tmp_path.iterdir()) == sorted(
        [stores[3].folder, stores[4].folder, tmp_path / "notes"]
    )
    assert size_on_disk(tmp_path) == 2 * each + 100_000
    assert prune(tmp_path / "absent", 0) == []
    age(stores[3], token_folders.IN_USE / 3600 + 0.01)
    assert prune(tmp_path, 0) == [stores[3].folder]
