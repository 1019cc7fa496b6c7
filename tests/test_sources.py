"""Sources read and mixed, and every way a file can be wrong."""

import gzip
import json
import sys
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from data.errors import DataError
from data.ledger import Ledger
from data.sources import Mixture, Source, files, read, shares


@pytest.fixture
def base(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def take(value, base, ledger=None):
    return list(read(Mixture.model_validate(value), base, ledger or Ledger(name="t")))


def rows_of(value, base):
    return [row for _, row in take(value, base)]


def lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


THREE = [{"prompt": f"p{n}", "completion": f"c{n}"} for n in range(3)]


@pytest.mark.parametrize(
    "value",
    [
        "a.jsonl",
        {"path": "a.jsonl"},
        ["a.jsonl"],
        [{"path": "a.jsonl"}],
        {"sources": ["a.jsonl"]},
        Source(path="a.jsonl"),
    ],
)
def test_short_forms(value):
    assert Mixture.model_validate(value) == Mixture(sources=(Source(path="a.jsonl"),))


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ({"path": "a", "splt": "x"}, "splt"),
        ({"path": "a", "weight": 0}, "greater than 0"),
        ({"path": "a", "weight": float("inf")}, "finite"),
        ({"path": "a", "limit": 0}, "greater than 0"),
        ({"path": "a", "limit": "5"}, "valid integer"),
        ({"path": "a", "format": "xml"}, "jsonl"),
        ({"path": ""}, "at least 1 character"),
        ([], "at least 1 item"),
        (7, "valid dictionary"),
        ([{"path": "a", "weight": 1}, "b"], "give every source a weight or none: b has none"),
    ],
)
def test_bad_sources_are_refused(value, told):
    with pytest.raises(ValidationError, match=told):
        Mixture.model_validate(value)


def test_the_schema_admits_the_short_forms():
    forms = TypeAdapter(Mixture).json_schema()["anyOf"]
    assert forms[0] == {"type": "string"}
    assert forms[2]["type"] == "array"
    assert len(forms) == 4


def test_every_local_format_gives_the_same_rows(base):
    import pyarrow as pa
    import pyarrow.parquet as pq

    lines(base / "a.jsonl", THREE)
    (base / "b.json").write_text(json.dumps(THREE))
    (base / "c.json").write_text(json.dumps({"data": THREE, "version": 1}))
    table = "\ufeffprompt,completion\n" + "".join(f"{row['prompt']},{row['completion']}\r\n" for row in THREE)
    (base / "d.csv").write_text(table, encoding="utf-8")
    pq.write_table(pa.Table.from_pylist(THREE), base / "e.parquet")
    (base / "f.jsonl.gz").write_bytes(gzip.compress((base / "a.jsonl").read_bytes()))
    (base / "g.csv.gz").write_bytes(gzip.compress(table.encode()))
    (base / "h.txt").write_bytes((base / "a.jsonl").read_bytes())
    for name in ("a.jsonl", "b.json", "c.json", "d.csv", "e.parquet", "f.jsonl.gz", "g.csv.gz"):
        assert rows_of(name, base) == THREE, name
    assert rows_of({"path": "h.txt", "format": "jsonl"}, base) == THREE
    places = {name: [where for where, _ in take(name, base)][1] for name in ("a.jsonl", "b.json", "d.csv")}
    assert places == {"a.jsonl": "a.jsonl:2", "b.json": "b.json:row 2", "d.csv": "d.csv:3"}


def test_csv_cells_hold_commas_quotes_breaks_and_length(base):
    long = "x" * 200_000
    (base / "a.csv").write_text(f'prompt,completion\n"a, ""b""\nc",{long}\n\nd,e\n')
    found = take("a.csv", base)
    assert [tuple(row) for row in found] == [
        ("a.csv:2", {"prompt": 'a, "b"\nc', "completion": long}),
        ("a.csv:5", {"prompt": "d", "completion": "e"}),
    ]


def test_paths_resolve_against_the_recipes_folder(base, tmp_path_factory):
    recipes = tmp_path_factory.mktemp("recipes")
    lines(recipes / "data" / "a.jsonl", THREE)
    assert rows_of("data/a.jsonl", recipes) == THREE
    assert files(Mixture.model_validate("data/a.jsonl"), recipes) == [recipes / "data" / "a.jsonl"]


def test_columns_and_limit(base):
    lines(
        base / "a.jsonl",
        [{"question": "q", "answer": "a", "id": 1}, {"question": "r", "answer": "b", "id": 2}],
    )
    source = {"path": "a.jsonl", "columns": {"prompt": "question", "completion": "answer"}}
    assert rows_of(source, base)[0] == {"id": 1, "prompt": "q", "completion": "a"}
    ledger = Ledger(name="t")
    assert len(take({**source, "limit": 1}, base, ledger)) == 1
    assert ledger.read == {"a.jsonl": 1}
    with pytest.raises(DataError, match=r"a\.jsonl:1: columns: names 'questoin' for 'prompt'") as fault:
        take({"path": "a.jsonl", "columns": {"prompt": "questoin"}}, base)
    assert "did you mean 'question'?" in str(fault.value)
    swap = {"path": "a.jsonl", "columns": {"question": "answer", "answer": "question"}, "limit": 1}
    assert rows_of(swap, base) == [{"id": 1, "question": "a", "answer": "q"}]


def test_a_folder_is_its_data_files_in_order(base):
    lines(base / "d" / "b.jsonl", THREE[1:2])
    lines(base / "d" / "a.jsonl", THREE[:1])
    lines(base / "d" / "sub" / "c.jsonl", THREE[2:])
    (base / "d" / "README.md").write_text("not data")
    lines(base / "d" / ".cache" / "x.jsonl", THREE)
    assert rows_of("d", base) == THREE
    assert [path.name for path in files(Source(path="d"), base)] == ["a.jsonl", "b.jsonl", "c.jsonl"]
    with pytest.raises(DataError, match="no data files in this folder"):
        take({"path": "d", "format": "parquet"}, base)


def test_a_folder_with_splits_never_mixes_them(base):
    lines(base / "d" / "train-00000-of-00002.jsonl", THREE[:1])
    lines(base / "d" / "train-00001-of-00002.jsonl", THREE[1:2])
    lines(base / "d" / "valid.jsonl", THREE[2:])
    assert rows_of("d", base) == THREE[:2]
    assert rows_of({"path": "d", "split": "validation"}, base) == THREE[2:]
    with pytest.raises(
        DataError, match="no files of split 'test'; splits told by file names here: train, validation"
    ):
        take({"path": "d", "split": "test"}, base)
    lines(base / "d" / "more.jsonl", THREE)
    with pytest.raises(DataError, match=r"more\.jsonl belongs to no split"):
        take("d", base)
    with pytest.raises(DataError, match="split 'test' of a single file"):
        take({"path": "d/more.jsonl", "split": "test"}, base)


def test_files_are_listed_unread(base):
    (base / "broken.jsonl").write_bytes(b"\xff")
    mixture = Mixture.model_validate(["broken.jsonl", "org/name"])
    assert files(mixture, base) == [base / "broken.jsonl"]
    with pytest.raises(DataError, match="no such file"):
        files(Source(path="absent.jsonl"), base)


@pytest.mark.parametrize(
    ("name", "raw", "told"),
    [
        ("a.jsonl", b"", "a.jsonl: the dataset is empty"),
        ("a.jsonl", b"\n\n", "a.jsonl: the dataset is empty"),
        ("a.jsonl", b'{"a": 1}\n{"a": 2', "a.jsonl:2: the last line is cut off"),
        ("a.jsonl", b'{"a": 1}\n{"a": 2]\n', "a.jsonl:2: not JSON at column 8"),
        ("a.json", b"", "a.json: the dataset is empty"),
        ("a.json", b"[]", "a.json: the dataset is empty"),
        ("a.json", b'[{"a": 1},\n{"a" 2}]', "a.json:2: not JSON at column 6"),
        (
            "a.json",
            b'{"a": 1}\n{"a": 2}\n',
            "a.json:2: not JSON at column 1: Extra data\n  it looks like JSON lines",
        ),
        ("a.json", b'{"rows": []}', "a.json: one JSON value, not a list of rows"),
        ("a.json", b"[1]", "a.json:row 1: a int, not an object"),
        ("a.json", b'["\xe4"]', "a.json:1: not UTF-8"),
        ("a.csv", b"a,b\n1,2\n1,2,3\n", "a.csv:3: 3 cells under a header of 2"),
        ("a.csv", b"a,b\n1\n", "a.csv:2: 1 cells under a header of 2"),
        ("a.csv", b'a,b\n1,"2\n3,4\n', "a.csv:2: broken CSV: unexpected end of data"),
        ("a.csv", b"a,a\n1,2\n", "a.csv:1: the header names a twice"),
        ("a.csv", b"a,\n1,2\n", "a.csv:1: the header has an empty name"),
        ("a.csv", b"a,b\n1,\xe4\n", "a.csv:2: not UTF-8: byte 0xe4 at byte 3"),
        ("a.csv", b"a,b\n", "a.csv: the dataset is empty"),
        ("a.parquet", b"PAR1 nothing PAR1", "a.parquet: not a readable parquet file after row 0"),
        ("a.parquet", b"", "a.parquet: not a readable parquet file after row 0"),
        ("a.txt", b"x", "a.txt: the name does not tell the format ('.txt')"),
        ("a.parquet.gz", b"x", "a.parquet.gz: the name does not tell the format"),
    ],
)
def test_faults_name_the_file_and_the_place(base, name, raw, told):
    (base / name).write_bytes(raw)
    with pytest.raises(DataError) as fault:
        take(name, base)
    assert str(fault.value).startswith(told)
    assert fault.value.way_out


def test_a_parquet_file_cut_in_its_data_is_corrupt(base):
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = base / "a.parquet"
    pq.write_table(
        pa.Table.from_pylist([{"text": f"{n}" * 50} for n in range(2000)]), path, compression="snappy"
    )
    raw = bytearray(path.read_bytes())
    raw[4:2000] = b"\xff" * 1996
    path.write_bytes(bytes(raw))
    with pytest.raises(DataError, match="not a readable parquet file"):
        take("a.parquet", base)


def test_a_missing_file_is_told_with_the_nearest_name(base):
    lines(base / "data" / "train.jsonl", THREE)
    with pytest.raises(DataError, match="no such file or folder") as fault:
        take("data/trian.jsonl", base)
    assert str(fault.value).endswith("data/train.jsonl?")


def test_weights_are_exact_shares(base):
    lines(base / "a.jsonl", [{"text": f"a{n}"} for n in range(100)])
    lines(base / "b.jsonl", [{"text": f"b{n}"} for n in range(30)])
    value = {"sources": [{"path": "a.jsonl", "weight": 3}, {"path": "b.jsonl", "weight": 1}], "seed": 5}
    # shares 3/4 and 1/4; N = min(100 / 0.75, 30 / 0.25) = min(133.3, 120) = 120: 90 of a, all 30 of b
    ledger = Ledger(name="t")
    found = [row["text"] for _, row in take(value, base, ledger)]
    from_a = [text for text in found if text[0] == "a"]
    assert (len(from_a), len(found) - len(from_a)) == (90, 30)
    assert len(set(found)) == 120
    assert from_a == sorted(from_a, key=lambda text: int(text[1:]))
    assert ledger.read == {"a.jsonl": 100, "b.jsonl": 30}
    assert ledger.left_out == {"a.jsonl": 10}
    for end in range(1, 121):  # every beginning has the shares
        assert abs(sum(text[0] == "a" for text in found[:end]) - 0.75 * end) <= 1
    assert found == [row["text"] for _, row in take(value, base)]
    other = [row["text"] for _, row in take({**value, "seed": 6}, base)]
    assert other != found
    assert len(other) == 120


def test_the_draw_of_a_seed_never_changes(base):
    lines(base / "a.jsonl", [{"n": n} for n in range(10)])
    lines(base / "b.jsonl", [{"n": n} for n in range(100, 103)])
    value = [{"path": "a.jsonl", "weight": 1}, {"path": "b.jsonl", "weight": 1}]
    assert [row["n"] for row in rows_of(value, base)] == [3, 100, 7, 101, 8, 102]


def test_without_weights_sources_follow_one_another(base):
    lines(base / "a.jsonl", THREE[:2])
    lines(base / "b.jsonl", THREE[2:])
    assert rows_of(["b.jsonl", "a.jsonl"], base) == [THREE[2], THREE[0], THREE[1]]
    assert rows_of([{"path": "a.jsonl", "weight": 0.1}], base) == THREE[:2]


def test_a_weight_that_uses_no_row_is_an_error(base):
    lines(base / "a.jsonl", THREE)
    lines(base / "b.jsonl", THREE)
    with pytest.raises(DataError, match=r"not one row of b\.jsonl would be used"):
        take([{"path": "a.jsonl", "weight": 1000}, {"path": "b.jsonl", "weight": 1}], base)


@given(
    st.lists(
        st.tuples(st.integers(1, 10_000), st.floats(0.001, 1000, allow_nan=False)), min_size=1, max_size=6
    )
)
def test_shares_keep_their_rule(pairs):
    counts, weights = [count for count, _ in pairs], [weight for _, weight in pairs]
    takes = shares(counts, weights)
    whole = min(count * sum(weights) / weight for count, weight in pairs)
    assert all(0 <= take <= count for take, count in zip(takes, counts, strict=True))
    assert any(take == count for take, count in zip(takes, counts, strict=True))
    for take, weight in zip(takes, weights, strict=True):
        assert take == pytest.approx(whole * weight / sum(weights), abs=1.0001)


def hub(monkeypatch, load):
    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load))


def test_the_hub_is_asked_for_what_the_recipe_names(base, monkeypatch):
    asked = []
    hub(monkeypatch, lambda path, **how: asked.append((path, how)) or THREE)
    source = {"path": "org/name", "name": "en", "split": "test[:3]", "revision": "abc", "limit": 2}
    assert [where for where, _ in take(source, base)] == [
        "org/name[test[:3]]:row 1",
        "org/name[test[:3]]:row 2",
    ]
    assert asked == [("org/name", {"name": "en", "split": "test[:3]", "revision": "abc"})]


@pytest.mark.parametrize(
    "fault", [ConnectionError("no route\nlong"), ValueError("Unknown split"), FileNotFoundError()]
)
def test_a_hub_that_fails_says_what_to_do_offline(base, monkeypatch, fault):
    def fail(*_, **__):
        raise fault

    hub(monkeypatch, fail)
    with pytest.raises(DataError, match=r"org/name\[train\]: the hub dataset cannot be loaded") as told:
        take("org/name", base)
    assert "hf download --repo-type dataset org/name --local-dir DIR" in str(told.value)
    assert "no local file or folder 'org/name'" in str(told.value)


@pytest.mark.parametrize("path", ["./org/name", "a/b/c", "org/name.jsonl", "../x", "~/x"])
def test_paths_are_not_taken_for_hub_ids(base, path):
    with pytest.raises(DataError, match="no such file or folder"):
        take(path, base)
