"""Shapes told from columns, and faults of rows told with row and column."""

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.errors import DataError
from data.ledger import Ledger
from data.records import COLUMNS, Placed, check_row, check_rows, placed, shape_of, unpair, with_shape


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


@pytest.mark.parametrize(
    ("keys", "shape"),
    [
        ({"prompt", "completion"}, "prompt_completion"),
        ({"prompt", "chosen", "rejected"}, "preference"),
        ({"chosen", "rejected", "score"}, "preference"),
        ({"messages"}, "messages"),
        ({"prompt", "completion", "label"}, "unpaired"),
        ({"text", "meta"}, "text"),
        ({"prompt", "answer"}, "prompt"),
        ({"prompt", "chosen", "rejected", "messages"}, "preference"),
    ],
)
def test_shape_of(keys, shape):
    assert shape_of(keys) == shape


def test_shape_of_among_what_the_caller_can_use():
    ultrafeedback = {"prompt", "chosen", "rejected", "messages"}
    assert shape_of(ultrafeedback, among=("messages", "prompt_completion", "text")) == "messages"
    with pytest.raises(DataError) as fault:
        shape_of({"question", "answer"}, among=("prompt_completion",))
    assert fault.value.what == "the columns answer, question make no usable row"
    assert "prompt_completion (prompt, completion)" in str(fault.value)
    assert "messages" not in str(fault.value)


def test_with_shape_gives_every_row_back():
    rows = list(placed([{"text": "a"}, {"text": "b"}], "t"))
    shape, again = with_shape(iter(rows))
    assert shape == "text"
    assert list(again) == rows
    with pytest.raises(DataError, match="no rows"):
        with_shape(iter([]))
    with pytest.raises(DataError, match=r"f\.jsonl:3: the columns foo make"):
        with_shape([Placed("f.jsonl:3", {"foo": 1})])


@pytest.mark.parametrize(
    ("row", "shape", "told"),
    [
        ({"prompt": "a"}, "prompt_completion", "the column 'completion' is missing"),
        ({"prompt": "a", "completion": None}, "prompt_completion", "'completion' is null"),
        (
            {"prompt": "a", "completion": 3},
            "prompt_completion",
            "'completion' is a number, not text or a list of",
        ),
        ({"prompt": "a", "completion": {}}, "prompt_completion", "'completion' is an object"),
        ({"prompt": "a", "completion": " \n"}, "prompt_completion", "'completion' is empty"),
        ({"prompt": [], "completion": []}, "prompt_completion", "'prompt' has no messages"),
        ({"text": ["a"]}, "text", "'text' is a list, not text"),
        ({"messages": "a"}, "messages", "'messages' is text, not a list of messages"),
        ({"messages": ["a"]}, "messages", r"messages\[0\]: 'messages' holds text, not a message"),
        (
            {"messages": [user("a"), {"from": "gpt"}]},
            "messages",
            r"messages\[1\]: a message of 'messages' has no role",
        ),
        ({"messages": [user("")]}, "messages", "a message of 'messages' is empty"),
        ({"messages": [user(None)]}, "messages", "a message of 'messages' is empty"),
        ({"messages": [user(7)]}, "messages", "has a number as content"),
        (
            {"prompt": "a", "completion": [assistant("b")]},
            "prompt_completion",
            "'prompt' is plain text but 'completion'",
        ),
        (
            {"prompt": "a", "chosen": "b", "rejected": [assistant("b")]},
            "preference",
            "but 'rejected' is a conversation",
        ),
        ({"prompt": "a", "completion": "b", "label": "good"}, "unpaired", "'label' is not true or false"),
        ({"prompt": "a", "completion": "b", "label": 2}, "unpaired", "'label' is not true or false"),
        ({"prompt": "a", "completion": "b", "label": None}, "unpaired", "'label' is null"),
        ({"chosen": [assistant("a")], "rejected": [assistant("b")]}, "preference", "no shared start"),
        ({"chosen": "a", "rejected": "b"}, "preference", "no shared start"),
        ({"prompt": "a", "chosen": "b"}, "preference", "the column 'rejected' is missing"),
        ({"text": "half \ud83d"}, "text", "'text' holds half a character"),
    ],
)
def test_a_bad_row_is_told_with_its_place_and_way_out(row, shape, told):
    with pytest.raises(DataError, match=told) as fault:
        check_row(row, shape, "pairs.jsonl:12")
    assert str(fault.value).startswith("pairs.jsonl:12")
    assert fault.value.way_out


def test_good_rows_keep_their_other_columns():
    row = {"prompt": [user("a")], "completion": [assistant("b")], "source": "web"}
    assert check_row(row, "prompt_completion", "x") == row
    assert check_row({"prompt": "a", "chosen": "b", "rejected": "b"}, "preference", "x")["chosen"] == "b"
    empty_system = {"messages": [{"role": "system", "content": ""}, user("a")]}
    assert check_row(empty_system, "messages", "x") == empty_system
    calls = {"messages": [user("a"), {"role": "assistant", "content": None, "tool_calls": [{"name": "f"}]}]}
    assert check_row(calls, "messages", "x") == calls
    blocks = {"messages": [user([{"type": "image"}, {"type": "text", "text": "what?"}])]}
    assert check_row(blocks, "messages", "x") == blocks


@pytest.mark.parametrize(
    ("written", "label"),
    [(True, True), (False, False), (1, True), (0, False), ("True", True), (" false", False), ("0", False)],
)
def test_labels(written, label):
    row = check_row({"prompt": "a", "completion": "b", "label": written}, "unpaired", "x")
    assert row["label"] is label


def test_an_implicit_prompt_is_taken_out():
    row = {"chosen": [user("a"), assistant("b")], "rejected": [user("a"), assistant("c")], "score": 1}
    assert check_row(row, "preference", "x") == {
        "prompt": [user("a")],
        "chosen": [assistant("b")],
        "rejected": [assistant("c")],
        "score": 1,
    }
    hh = {"chosen": "Human: hi Assistant: yes", "rejected": "Human: hi Assistant: no"}
    assert check_row(hh, "preference", "x")["prompt"] == "Human: hi Assistant:"
    assert check_row(hh, "preference", "x")["rejected"] == " no"


@pytest.mark.parametrize("prompt", ["a", [user("a")]])
def test_a_prompt_that_the_conversations_repeat_stands_once(prompt):
    row = {"prompt": prompt, "chosen": [user("a"), assistant("b")], "rejected": [user("a"), assistant("c")]}
    assert check_row(row, "preference", "x") == {
        "prompt": [user("a")],
        "chosen": [assistant("b")],
        "rejected": [assistant("c")],
    }


def test_another_prompt_than_the_conversations_begin_with_is_a_fault():
    row = {"prompt": "z", "chosen": [user("a"), assistant("b")], "rejected": [user("a"), assistant("c")]}
    with pytest.raises(DataError, match="'prompt' is plain text but 'chosen' is a conversation"):
        check_row(row, "preference", "x")


def test_check_rows_drops_and_counts_only_when_asked():
    ledger = Ledger(name="t")
    rows = list(placed([{"text": "a"}, {"text": ""}, {"text": None}, {"text": " "}], "t", ledger))
    with pytest.raises(DataError):
        list(check_rows(rows, "text", ledger))
    assert list(check_rows(rows, "text", ledger, "drop")) == rows[:1]
    assert ledger.dropped["'text' is empty"].examples == ["t:row 2", "t:row 4"]
    assert ledger.dropped["'text' is null"].count == 1
    assert ledger.read == {"t": 4}


def test_unpair():
    pair = {"prompt": "p", "chosen": "c", "rejected": "r", "id": 7}
    assert [tuple(row) for row in unpair([Placed("f:1", pair)])] == [
        ("f:1 chosen", {"prompt": "p", "id": 7, "completion": "c", "label": True}),
        ("f:1 rejected", {"prompt": "p", "id": 7, "completion": "r", "label": False}),
    ]


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["role", "content", "tool_calls"]), inner, max_size=3)
    ),
    max_leaves=8,
)
columns = st.sampled_from(["prompt", "completion", "chosen", "rejected", "messages", "text", "label"])


@given(st.dictionaries(columns, values, max_size=5), st.sampled_from(sorted(COLUMNS)))
def test_any_row_is_either_fit_or_a_data_error(row, shape):
    try:
        fit = check_row(row, shape, "here")
    except DataError:
        return
    assert all(fit[column] not in (None, "", []) for column in COLUMNS[shape])


def test_the_data_layer_imports_nothing_heavy():
    heavy = "{'torch', 'transformers', 'trl', 'datasets', 'pyarrow', 'jinja2'}"
    light = "data.records, data.sources, data.chat, data.ledger, data.arrow, data.jsonl"
    code = f"import sys, {light}; print(*({heavy} & set(sys.modules)))"
    home = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=home)
    assert done.stdout == "\n"
