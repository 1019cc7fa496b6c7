"""JSON lines: faults told by line and column, whole files or none, appends that survive a torn tail."""

import errno
import gzip
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.errors import DataError
from data.jsonl import append_jsonl, iterate_jsonl, read_jsonl, replacing, write_jsonl_atomic

ROWS = [{"a": 1, "text": "zwölf ☀"}, {"a": 2, "text": "line\nbreak"}]


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "deep" / "rows.jsonl"
    assert write_jsonl_atomic(path, ROWS) == 2
    assert read_jsonl(path) == ROWS
    assert path.read_bytes().count(b"\n") == 2
    assert "zwölf ☀" in path.read_text(encoding="utf-8")
    assert os.listdir(path.parent) == ["rows.jsonl"]


def test_gzip_blank_lines_and_a_byte_order_mark(tmp_path):
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(gzip.compress(b'\xef\xbb\xbf{"a": 1}\n\n  \n{"a": 2}'))
    assert list(iterate_jsonl(path)) == [(1, {"a": 1}), (4, {"a": 2})]


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        (
            b'{"a": 1}\n{"a" 2}\n',
            r"rows\.jsonl:2: not JSON at column 6: Expecting ':' delimiter; the line starts '{\"a\" 2}'",
        ),
        (b'{"a": 1}\n{"a": 2, "te', r"rows\.jsonl:2: the last line is cut off: it ends in '{\"a\": 2, \"te'"),
        (b'{"a": 1}\n{"a": "\xe2\x98', r"rows\.jsonl:2: the last line is cut off"),
        (b'{"a": "\xe4"}\n', r"rows\.jsonl:1: not UTF-8: byte 0xe4 at byte 8"),
        (b"[1]\n", r"rows\.jsonl:1: a JSON list, not an object"),
        (b'{"a": 1}\n\x00\x00\n', r"rows\.jsonl:2: not JSON at column 1"),
        (b"[" * 200_000 + b"\n", r"rows\.jsonl:1: nested too deeply"),
    ],
)
def test_faults(tmp_path, raw, told):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(raw)
    with pytest.raises(DataError, match=told) as fault:
        read_jsonl(path)
    assert fault.value.way_out


def test_a_torn_tail_can_be_skipped_but_a_broken_line_cannot(tmp_path):
    path = tmp_path / "votes.jsonl"
    path.write_bytes(b'{"a": 1}\n{"a": ')
    assert read_jsonl(path, torn="skip") == [{"a": 1}]
    path.write_bytes(b'{"a": 1}\n{"a": \n')
    with pytest.raises(DataError, match="not JSON"):
        read_jsonl(path, torn="skip")


def test_missing_unreadable_and_corrupt(tmp_path):
    (tmp_path / "train.jsonl").touch()
    with pytest.raises(DataError, match=r"did you mean .*/train\.jsonl\?"):
        read_jsonl(tmp_path / "trian.jsonl")
    with pytest.raises(DataError, match=r"does not exist\n.*holds train\.jsonl"):
        read_jsonl(tmp_path / "other" / "far" / "rows.jsonl")
    with pytest.raises(DataError, match="cannot be read: Is a directory"):
        read_jsonl(tmp_path)
    packed = gzip.compress(b'{"a": 1}\n' * 1000)
    (tmp_path / "cut.jsonl.gz").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(DataError, match="corrupt or cut off"):
        read_jsonl(tmp_path / "cut.jsonl.gz")
    (tmp_path / "no.jsonl.gz").write_bytes(b'{"a": 1}\n')
    with pytest.raises(DataError, match="corrupt or cut off"):
        read_jsonl(tmp_path / "no.jsonl.gz")


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "rows.jsonl"
    write_jsonl_atomic(path, ROWS)

    def stopping():
        yield {"a": 3}
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_jsonl_atomic(path, stopping())
    with pytest.raises(DataError, match="cannot be written as JSON"):
        write_jsonl_atomic(path, [{"a": float("nan")}])
    with pytest.raises(DataError, match="cannot be written as JSON"):
        append_jsonl(path, [{"a": "\ud83d"}])
    assert read_jsonl(path) == ROWS
    assert os.listdir(tmp_path) == ["rows.jsonl"]


def test_a_full_disk_is_a_data_error(tmp_path):
    path = tmp_path / "rows.jsonl"
    with pytest.raises(DataError, match="No space left on device") as fault, replacing(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert "df -h" in str(fault.value)
    assert os.listdir(tmp_path) == []


def test_append(tmp_path):
    path = tmp_path / "new" / "votes.jsonl"
    assert append_jsonl(path, ROWS[:1]) == 1
    assert append_jsonl(path, ROWS[1:]) == 1
    assert append_jsonl(path, []) == 0
    assert read_jsonl(path) == ROWS


@given(st.integers(min_value=0, max_value=200))
def test_an_append_after_a_kill_at_any_byte_loses_only_the_torn_line(tmp_path_factory, cut):
    path = tmp_path_factory.mktemp("votes") / "votes.jsonl"
    append_jsonl(path, [*ROWS, *ROWS])
    whole = path.read_bytes()
    kept = whole[: min(cut, len(whole))]
    path.write_bytes(kept)
    survivors = read_jsonl(path, torn="skip")
    # A line that lacks only its newline is whole.
    assert len(survivors) == kept.count(b"\n") + kept.endswith(b"}")
    append_jsonl(path, [{"new": True}])
    assert read_jsonl(path) == [*survivors, {"new": True}]


def test_a_long_torn_tail_is_found(tmp_path):
    path = tmp_path / "votes.jsonl"
    path.write_bytes(b'{"a": 1}\n{"a": "' + b"x" * 200_000)
    append_jsonl(path, [{"a": 2}])
    assert read_jsonl(path) == [{"a": 1}, {"a": 2}]


def test_an_append_that_fails_is_taken_back(tmp_path, monkeypatch):
    path = tmp_path / "votes.jsonl"
    append_jsonl(path, ROWS)

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DataError, match="No space left"):
        append_jsonl(path, [{"a": 3}])
    assert read_jsonl(path) == ROWS
