"""Exports of other tools with one value replaced by nonsense: imported, or refused with the place; never a crash."""

from __future__ import annotations

import copy
import json
import tempfile
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.errors import UserError
from data.feedback import tables
from data.feedback.exchange import import_rows, in_places
from data.feedback.exchange_argilla import import_argilla, to_argilla, to_argilla_flat
from data.feedback.exchange_label_studio import import_label_studio, to_label_studio
from data.feedback.results import judgements
from data.feedback.stages import StageSettings, create_stage
from data.feedback.store import Store
from tests.labelling import rows
from tests.test_feedback_exchange import EVERY, ITEMS

NONSENSE: list[Any] = [
    None,
    True,
    -1,
    7,
    2.5,
    10**30,
    float("nan"),
    "",
    "other",
    "a\0b",
    "\ud800",
    "9" * 400,
    [],
    [[]],
    [None],
    ["x", 3],
    {},
    {"x": {"y": [1]}},
    {"value": 3},
]
MAKERS: dict[str, Callable[[Store, int], list[dict[str, Any]]]] = {
    "rows": lambda store, stage: copy.deepcopy(ITEMS),
    "argilla": lambda store, stage: list(to_argilla(judgements(store, stage))),
    "flat": lambda store, stage: list(to_argilla_flat(judgements(store, stage))),
    "label_studio": lambda store, stage: list(to_label_studio(judgements(store, stage))),
}


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """(container, key) of every value within."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in list(pairs):
        yield value, key
        yield from places(part)


def attempt(store: Store, stage: int, form: str, records: Any) -> UserError | None:
    try:
        if form == "rows":
            import_rows(store, stage, in_places(records, "source"))
        elif form == "label_studio":
            import_label_studio(store, stage, records, "source")
        else:
            import_argilla(store, stage, records, "source")
    except UserError as fault:
        return fault
    return None


@pytest.mark.parametrize("form", MAKERS)
def test_nonsense_is_refused_with_its_place(form: str) -> None:
    with tempfile.TemporaryDirectory() as folder, Store(Path(folder, "labels.sqlite")) as store:
        numbers = count(1)
        source = create_stage(store, "source", StageSettings(kinds=EVERY, overlap=2)).id
        import_rows(store, source, in_places(ITEMS, "items"))
        records = json.loads(json.dumps(MAKERS[form](store, source)))
        size = len(list(places(records)))
        outcomes = {"imported": 0, "refused": 0}

        @settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
        @given(st.integers(0, size - 1), st.sampled_from(NONSENSE), st.booleans())
        def spoil(place: int, nonsense: Any, remove: bool) -> None:
            spoiled = copy.deepcopy(records)
            container, key = list(places(spoiled))[place]
            if remove:
                del container[key]
            else:
                container[key] = copy.deepcopy(nonsense)
            stage = create_stage(store, f"try {next(numbers)}").id
            before = len(rows(store, tables.items))
            fault = attempt(store, stage, form, spoiled)
            outcomes["imported" if fault is None else "refused"] += 1
            if fault is not None:
                assert str(fault).startswith("source"), fault
                assert fault.way_out
                assert len(rows(store, tables.items)) == before

        spoil()
        assert min(outcomes.values()) > 10, outcomes
