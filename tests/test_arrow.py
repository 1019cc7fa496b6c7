"""Arrow files: the rows come back, memory-mapped, as int32; a failed write leaves nothing."""

import os

import pytest

from data import arrow
from data.arrow import write_arrow
from data.errors import DataError


def rows(count):
    for number in range(count):
        yield {
            "prompt_ids": [number, 49151],
            "chosen_ids": [1] * (number % 5),
            "label": number % 2 == 0,
            "m": 0.5,
        }


def test_rows_come_back_through_datasets(tmp_path):
    import datasets

    path = tmp_path / "deep" / "train.arrow"
    assert write_arrow(path, rows(2500)) == 2500
    data = datasets.Dataset.from_file(str(path))
    assert data.num_rows == 2500
    assert list(data) == list(rows(2500))
    assert str(data.data.schema.field("prompt_ids").type) == "list<item: int32>"
    assert str(data.data.schema.field("chosen_ids").type) == "list<item: int32>"
    assert [file["filename"] for file in data.cache_files] == [str(path)]  # mapped, not loaded
    assert os.listdir(path.parent) == ["train.arrow"]


def test_batches_are_bounded_by_rows_and_by_ids(tmp_path, monkeypatch):
    import pyarrow as pa

    monkeypatch.setattr(arrow, "BATCH_ROWS", 100)
    monkeypatch.setattr(arrow, "BATCH_IDS", 1000)
    path = tmp_path / "a.arrow"
    write_arrow(path, iter([{"ids": [0] * 400}] * 5 + [{"ids": [0]}] * 250))
    with pa.ipc.open_stream(path) as reader:
        assert [batch.num_rows for batch in reader] == [3, 100, 100, 52]


def test_rows_are_taken_only_as_they_are_written(tmp_path, monkeypatch):
    monkeypatch.setattr(arrow, "BATCH_ROWS", 10)
    held = []

    def watched():
        for number in range(100):
            held.append(number)
            yield {"ids": [number]}

    batches = arrow._batches(watched())
    assert len(next(batches)) == 10
    assert len(held) == 10


def test_an_empty_first_list_does_not_settle_the_type(tmp_path):
    import datasets

    path = tmp_path / "a.arrow"
    write_arrow(path, iter([{"ids": []}, {"ids": []}]))
    assert list(datasets.Dataset.from_file(str(path))) == [{"ids": []}, {"ids": []}]
    assert str(datasets.Dataset.from_file(str(path)).data.schema.field("ids").type) == "list<item: int32>"


def test_no_rows_is_an_error_and_no_file(tmp_path):
    with pytest.raises(DataError, match="no row is left to write"):
        write_arrow(tmp_path / "a.arrow", iter([]))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("late", "told"),
    [
        ({"ids": "x"}, "does not fit"),
        ({"ids": [2**40]}, "does not fit"),
        ({"other": [1]}, "different columns"),
    ],
)
def test_a_row_that_does_not_fit_is_an_error_and_the_old_file_stays(tmp_path, monkeypatch, late, told):
    import datasets

    monkeypatch.setattr(arrow, "BATCH_ROWS", 2)
    path = tmp_path / "a.arrow"
    write_arrow(path, iter([{"ids": [7]}]))
    with pytest.raises(DataError, match=told):
        write_arrow(path, iter([{"ids": [1]}, {"ids": [2]}, late]))
    assert os.listdir(tmp_path) == ["a.arrow"]
    assert list(datasets.Dataset.from_file(str(path))) == [{"ids": [7]}]


def test_a_fault_of_the_rows_passes_through(tmp_path):
    def faulty():
        yield {"ids": [1]}
        raise DataError("bad row", where="f:2")

    with pytest.raises(DataError, match="f:2: bad row"):
        write_arrow(tmp_path / "a.arrow", faulty())
    assert os.listdir(tmp_path) == []
