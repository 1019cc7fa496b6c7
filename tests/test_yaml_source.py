"""YAML as YAML 1.2 has it, with every place, and every broken text told with its line and column."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.reading.yaml_source import MAX_VALUES, Mark, read, read_value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2e-4", 2e-4),
        ("1e-6", 1e-6),
        ("1E5", 1e5),
        (".5", 0.5),
        ("5.", 5.0),
        ("-3", -3),
        ("+3", 3),
        ("010", 10),
        ("0o17", 15),
        ("0x1F", 31),
        ("yes", "yes"),
        ("no", "no"),
        ("on", "on"),
        ("1_000", "1_000"),
        ("1:30", "1:30"),
        ("2026-01-02", "2026-01-02"),
        ("true", True),
        ("False", False),
        ("~", None),
        ("null", None),
        ("", None),
        ("'12'", "12"),
        ('"null"', "null"),
        ("!!str 12", "12"),
        ("!!float 3", 3.0),
        ("!!int '3'", 3),
        ("[1, a]", [1, "a"]),
        ("{a: 1}", {"a": 1}),
    ],
)
def test_scalars_are_those_of_yaml_1_2(text: str, value: object) -> None:
    parsed = read_value(text)
    assert (parsed.value, type(parsed.value), parsed.problems) == (value, type(value), [])


def test_every_key_and_value_has_its_place() -> None:
    parsed = read("ä: 'ü'\nb:\n  - c: 1\n    d: [2, 3]\n".encode())
    assert parsed.value == {"ä": "ü", "b": [{"c": 1, "d": [2, 3]}]}
    assert parsed.keys[("ä",)] == Mark(1, 1)
    assert parsed.values[("ä",)] == Mark(1, 4)
    assert parsed.keys[("b", 0, "d")] == Mark(4, 5)
    assert parsed.values[("b", 0, "d", 1)] == Mark(4, 12)
    assert parsed.values[("b", 0)] == Mark(3, 5)


def test_a_duplicate_key_is_told_at_the_second_and_names_the_first() -> None:
    parsed = read(b"a: 1\nb:\n  c: 1\n  c: 2\na: 3\n")
    assert parsed.problems == [
        (("a",), Mark(5, 1), "the key stands twice; first in line 1, column 1"),
        (("b", "c"), Mark(4, 3), "the key stands twice; first in line 3, column 3"),
    ]


def test_aliases_and_merges() -> None:
    parsed = read(
        b"x: &x {a: 1, b: 2}\ny: &y {b: 3, c: 4}\nz: {<<: [*x, *y], a: 5}\nw: {<<: *x}\nv: *x\n'<<': 1\n"
    )
    assert parsed.problems == []
    assert parsed.value["z"] == {"a": 5, "b": 2, "c": 4}
    assert parsed.value["w"] == parsed.value["v"] == {"a": 1, "b": 2}
    assert parsed.value["<<"] == 1
    assert parsed.value["v"] is not parsed.value["x"], "an override of one must not change the other"
    assert parsed.values[("v",)] == Mark(5, 4)
    assert parsed.values[("w", "b")] == Mark(1, 17), "a merged value stands where it was written"


def test_a_fault_in_an_anchor_is_told_once() -> None:
    parsed = read(b"a: &a {k: 1, k: 2}\nb: *a\nc: {<<: *a}\n")
    assert [mark for _, mark, _ in parsed.problems] == [Mark(1, 14)]


@pytest.mark.parametrize(
    ("raw", "mark", "words"),
    [
        (b"", Mark(1, 1), "the file is empty"),
        (b"# nothing\n", Mark(1, 1), "the file is empty"),
        (b"\n- a\n", Mark(2, 1), "found a list; a recipe is a mapping"),
        (b"just text", Mark(1, 1), 'found "just text"; a recipe is a mapping'),
        (b"a:\n\tb: 1\n", Mark(2, 1), "a tab"),
        (b"a: 1\nb: \xff\n", Mark(2, 4), "byte 0xff is not UTF-8"),
        ("a: ü\nü: \x01\n".encode(), Mark(2, 4), "is not allowed in YAML"),
        (b"a: [1,\n  b\n", Mark(1, 4), "the list has no `]`"),
        (b"a: 'x\n\n\n", Mark(1, 4), "never closed"),
        (b"a: b: c", Mark(1, 5), "a second `:`"),
        (b"a: 1\n b: 2", Mark(2, 3), "a second `:`"),
        (b"a:\n  - x\n  y: 2\n", Mark(3, 3), "check its indentation"),
        (b"a: @x", Mark(1, 4), "cannot begin with `@`"),
        (b"a: 1\n---\nb: 2\n", Mark(2, 1), "a second document"),
        (b"a: *x", Mark(1, 4), "no complete `&x`"),
        (b"a: &x [*x]", Mark(1, 8), "no complete `&x`"),
        (b"a: !!python/object:os.system x", Mark(1, 4), "!!python/object:os.system"),
        (b"a: !mine x", Mark(1, 4), "the tag `!mine` is not allowed"),
        (b"a: " + b"[" * 100_000, Mark(1, 44), "nested more than 40 deep"),
        (b"a: 1\n" * 300_000, Mark(1, 1), "bytes; a recipe has at most"),
        (b"a: .inf", Mark(1, 4), "is not a finite number"),
        (b"a: 1e999", Mark(1, 4), "is not a finite number"),
        (b"a: " + b"9" * 6000, Mark(1, 4), "too long"),
        (b"? [a]\n: 1\n", Mark(1, 3), "a key must be plain text"),
        (b"x: {<<: 3}", Mark(1, 9), "merges a mapping"),
    ],
)
def test_what_is_wrong_has_a_place_and_a_sentence(raw: bytes, mark: Mark, words: str) -> None:
    problems = read(raw).problems
    assert len(problems) == 1
    assert problems[0][1] == mark
    assert words in problems[0][2]


def test_a_billion_laughs_are_refused_in_time() -> None:
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    began = time.perf_counter()
    parsed = read("\n".join(lines).encode())
    assert time.perf_counter() - began < 2
    assert parsed.broken
    assert f"more than {MAX_VALUES} values" in parsed.problems[0][2]


def test_merges_that_merge_merges_end_in_a_fault() -> None:
    anchors = ", ".join(["&a0 {k: 1}", *(f"&a{i} {{<<: *a{i - 1}}}" for i in range(1, 3000))])
    parsed = read(f"? [{anchors}]\n: 1\nb: {{<<: *a2999}}\n".encode())
    assert parsed.problems


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.binary(max_size=200), st.text(alphabet="ab:-[]{}&*<>!'\"?|,#% \n\t1.", max_size=80)))
def test_no_text_raises(text: bytes | str) -> None:
    raw = text.encode() if isinstance(text, str) else text
    parsed = read(raw)
    assert parsed.problems or isinstance(parsed.value, dict)
