"""The label server's routes for a lead: the figures, pausing and closing, who works, and what may be taken along."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, is_dataclass
from typing import Any, cast

from fastapi import FastAPI
from fastapi.responses import JSONResponse, Response, StreamingResponse

from data.feedback.exchange import export_rows
from data.feedback.history import history
from data.feedback.leases import release
from data.feedback.progress import progress
from data.feedback.results import (
    Judgements,
    accepted_rows,
    judged_records,
    judgements,
    preference_pairs,
    unpaired_rows,
)
from data.feedback.roster import bar, unbar
from data.feedback.stages import set_state
from data.feedback.store import Store
from data.feedback.web.bodies import BarIn, PersonIn, ReleaseIn, StateIn
from data.feedback.web.guard import told

# A lead may take known answers along; training rows come without them.
EXPORTS: dict[str, Callable[[Judgements], Iterable[Mapping[str, Any]]]] = {
    "pairs": preference_pairs,
    "accepted": accepted_rows,
    "unpaired": unpaired_rows,
    "judged": judged_records,
    "items": export_rows,
}
SAMPLES = 200
# The figures are worked out anew at most every second, and never for more than a fifth of the time.
REST = 4.0
LEAST = 1.0
FLAGS_SHOWN = 20


class Figures:
    """The figures, kept for a while: many watching leads cost no more than one."""

    def __init__(self, store: Store, stage_id: int) -> None:
        self.store = store
        self.stage_id = stage_id
        self._lock = threading.Lock()
        self._kept: dict[str, Any] = {}
        self._until = 0.0

    def now(self) -> dict[str, Any]:
        with self._lock:
            begun = time.monotonic()
            if begun >= self._until:
                figures = cast("dict[str, Any]", plain(progress(self.store, self.stage_id, samples=SAMPLES)))
                figures["flags"] = self._flags()
                figures["at"] = time.time()
                took = time.monotonic() - begun
                self._kept, self._until = figures, time.monotonic() + max(LEAST, REST * took)
            return self._kept

    def forget(self) -> None:
        """Something was changed by a lead, who wants to see it."""
        with self._lock:
            self._until = 0.0

    def _flags(self) -> list[dict[str, Any]]:
        found = [
            one for one in history(self.store, self.stage_id, limit=2000, current=True) if one.kind == "flag"
        ]
        return [
            {"item": one.item_key, "person_id": one.person_id, "comment": one.comment, "at": one.at}
            for one in found[:FLAGS_SHOWN]
        ]


def routes(app: FastAPI, store: Store, stage_id: int) -> None:
    figures = Figures(store, stage_id)

    @app.get("/api/lead/progress")
    def numbers() -> JSONResponse:  # pyright: ignore[reportUnusedFunction]
        return JSONResponse(figures.now())

    @app.post("/api/lead/state")
    def state(body: StateIn) -> JSONResponse:  # pyright: ignore[reportUnusedFunction]
        stage = set_state(store, stage_id, body.state)
        figures.forget()
        return JSONResponse({"state": stage.state})

    @app.post("/api/lead/bar")
    def shut(body: BarIn) -> JSONResponse:  # pyright: ignore[reportUnusedFunction]
        released = bar(store, stage_id, body.person_id, body.reason, votes_count=body.votes_count)
        figures.forget()
        return JSONResponse({"released": released})

    @app.post("/api/lead/unbar")
    def lift(body: PersonIn) -> JSONResponse:  # pyright: ignore[reportUnusedFunction]
        unbar(store, stage_id, body.person_id)
        figures.forget()
        return JSONResponse({"barred": False})

    @app.post("/api/lead/release")
    def back(body: ReleaseIn) -> JSONResponse:  # pyright: ignore[reportUnusedFunction]
        released = release(store, stage_id, body.person_id)
        figures.forget()
        return JSONResponse({"released": released})

    @app.get("/api/lead/export/{what}.jsonl")
    def export(what: str) -> Response:  # pyright: ignore[reportUnusedFunction]
        rows = EXPORTS.get(what)
        if rows is None:
            return told(404, "unknown", "there is no such export", f"there are {', '.join(EXPORTS)}")
        of = judgements(store, stage_id, gold=what == "items")
        headers = {"content-disposition": f'attachment; filename="{what}.jsonl"'}
        return StreamingResponse(_lines(rows(of)), media_type="application/jsonl", headers=headers)


def _lines(rows: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    for row in rows:
        yield json.dumps(row, ensure_ascii=True, allow_nan=False) + "\n"


def plain(value: object) -> object:
    """For JSON, which knows neither NaN nor infinity: both become null."""
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in cast("Mapping[object, object]", value).items()}
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in cast("list[object]", value)]
    return cast("Any", value).model_dump(mode="json") if hasattr(value, "model_dump") else value
