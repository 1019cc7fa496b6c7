"""The label server's routes for an annotator: the page, the next item, a vote, undoing it, what came before."""

from __future__ import annotations

import functools
import hashlib
import math
import time
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse, Response
from sqlalchemy.exc import DBAPIError

from data.errors import DataError
from data.feedback.assignment import Assignment, assigned, next_item
from data.feedback.assignment import Nothing as NoItem
from data.feedback.ballots import BallotError
from data.feedback.history import Vote, history
from data.feedback.leases import renew
from data.feedback.people import NotAllowedError, person_by_token
from data.feedback.stages import get_stage
from data.feedback.store import Store
from data.feedback.tables import items, stages, votes
from data.feedback.votes import LeaseLostError, Receipt, VoteConflictError, retract, submit, submit_and_next
from data.feedback.web import lead
from data.feedback.web.bodies import HoldIn, NextIn, Nothing, UndoIn, VoteIn
from data.feedback.web.guard import Guard, Pace, cookie_name, csrf_token, person_of, told
from data.pictures import read_picture

FILES = {
    "style.css": "text/css",
    "text.js": "text/javascript",
    "maths.js": "text/javascript",
    "outbox.js": "text/javascript",
    "kept.js": "text/javascript",
    "label.js": "text/javascript",
    "answer.js": "text/javascript",
    "lead.js": "text/javascript",
}
COOKIE_DAYS = 30
SHOWN_BEFORE = 20
COUNT_SECONDS = 5


@dataclass(frozen=True)
class Served:
    """What is served: one stage of one store, and the folder that its images lie in."""

    store: Store
    stage_id: int
    images: Path


def create_app(place: Served, *, pace: Pace | None = None) -> FastAPI:
    """The application, guarded."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    cookie = cookie_name(place.store, place.stage_id)
    app.add_middleware(Guard, store=place.store, cookie=cookie, pace=pace or Pace())
    _refusals(app)
    _pages(app, place, cookie)
    _work(app, place)
    lead.routes(app, place.store, place.stage_id)
    return app


@functools.cache
def page(name: str) -> bytes:
    return resources.files("data.feedback.web").joinpath("page", name).read_bytes()


@functools.cache
def version() -> str:
    """Of all files together: a browser that kept an old script asks for the one of the page's version."""
    return hashlib.sha256(b"".join(page(name) for name in FILES)).hexdigest()[:12]


def _html(name: str) -> Response:
    return Response(page(name).replace(b"{{version}}", version().encode()), media_type="text/html")


def _pages(app: FastAPI, place: Served, cookie: str) -> None:
    @app.get("/enter/{token}")
    def enter(token: str, request: Request) -> Response:  # pyright: ignore[reportUnusedFunction]
        person = person_by_token(place.store, token)
        if person is None:
            return told(401, "no_token", "this link opens nothing (any more)", "ask for a fresh link")
        away = RedirectResponse("/lead" if person.role == "lead" else "/", 303)
        away.set_cookie(
            cookie,
            token,
            max_age=COOKIE_DAYS * 86400,
            httponly=True,
            # Not `strict`: a link from a mail or a chat would arrive without it. Changes need the page's mark.
            samesite="lax",
            secure=request.url.scheme == "https",
        )
        return away

    @app.get("/")
    def label() -> Response:  # pyright: ignore[reportUnusedFunction]
        return _html("label.html")

    @app.get("/lead")
    def lead_page() -> Response:  # pyright: ignore[reportUnusedFunction]
        return _html("lead.html")

    @app.get("/page/{name}")
    def file(name: str) -> Response:  # pyright: ignore[reportUnusedFunction]
        if name not in FILES:
            return told(404, "unknown", "there is no such file")
        return Response(
            page(name), media_type=FILES[name], headers={"cache-control": "private, max-age=86400"}
        )

    @app.post("/api/leave")
    def leave(body: Nothing) -> Response:  # pyright: ignore[reportUnusedFunction]
        gone = JSONResponse({"left": True})
        gone.delete_cookie(cookie, httponly=True, samesite="lax")
        return gone

    @app.get("/image/{item_id}")
    def image(item_id: int, request: Request) -> Response:  # pyright: ignore[reportUnusedFunction]
        person = person_of(request.scope["state"])
        if not 1 <= item_id < 2**63:
            return told(404, "unknown", "there is no such item")
        if person.role != "lead" and assigned(place.store, place.stage_id, person.id, item_id) is None:
            return told(403, "not_allowed", "the item was never given to you")
        with place.store.read() as connection:
            name = connection.scalar(
                sa.select(items.c.image).where(items.c.id == item_id, items.c.stage_id == place.stage_id)
            )
        if name is None:
            return told(404, "unknown", "the item has no image")
        try:
            data, kind = read_picture(place.images, name)
        except DataError as fault:
            return told(404, "no_image", fault.what)
        headers = {"cache-control": "private, max-age=3600", "content-disposition": "inline"}
        return Response(data, media_type=kind, headers=headers)


def _work(app: FastAPI, place: Served) -> None:
    store, stage_id = place.store, place.stage_id
    # Under this name a browser keeps answers: those of another stage, on the same address later, are not this one's.
    born = get_stage(store, stage_id).created_at
    mark = hashlib.sha256(f"{store.shown}\0{stage_id}\0{born!r}".encode()).hexdigest()[:16]
    counted: tuple[float, dict[str, int]] = (-math.inf, {})

    def stage_progress() -> dict[str, int]:
        """How far everybody together is, counted anew at most every few seconds."""
        nonlocal counted
        now = time.monotonic()
        if now - counted[0] > COUNT_SECONDS:
            ours = (items.c.stage_id == stage_id) & (items.c.is_gold == 0)
            with store.read() as connection:
                done = connection.scalar(sa.select(stages.c.done).where(stages.c.id == stage_id))
                total = connection.scalar(sa.select(sa.func.count()).where(ours))
            counted = (now, {"done": done or 0, "items": total or 0})
        return counted[1]

    @app.get("/api/me")
    def me(request: Request) -> JSONResponse:  # pyright: ignore[reportUnusedFunction]
        state = request.scope["state"]
        person = person_of(state)
        stage = get_stage(store, stage_id)
        settings = stage.settings
        return JSONResponse(
            {
                "id": person.id,
                "name": person.name,
                "role": person.role,
                "mark": csrf_token(state["token"]),
                "stage": {
                    "mark": mark,
                    "name": stage.name,
                    "state": stage.state,
                    "question": settings.question,
                    "guidelines": settings.guidelines,
                    "kinds": settings.kinds,
                    "strength_max": settings.strength_max,
                    "ahead": settings.max_leases,
                    "lease_seconds": settings.lease_seconds,
                    **stage_progress(),
                },
                "answered": _answered(place, person.id),
            }
        )

    @app.post("/api/next")
    def following(body: NextIn, request: Request) -> JSONResponse:  # pyright: ignore[reportUnusedFunction]
        person = person_of(request.scope["state"])
        return JSONResponse(_next(place, person.id, body.holding))

    @app.post("/api/hold")
    def hold(body: HoldIn, request: Request) -> JSONResponse:  # pyright: ignore[reportUnusedFunction]
        person = person_of(request.scope["state"])
        return JSONResponse({"lost": renew(store, stage_id, person.id, body.holding)})

    @app.post("/api/vote")
    def vote(body: VoteIn, request: Request) -> JSONResponse:  # pyright: ignore[reportUnusedFunction]
        person = person_of(request.scope["state"])
        vote = (store, stage_id, person.id, body.item_id, body.ballot(), body.key)
        if body.holding is None:
            return JSONResponse({"receipt": _receipt(submit(*vote, supersedes=body.supersedes))})
        # If this fails half-way, the page sends the same key again, and gets the receipt.
        receipt, found = submit_and_next(*vote, holding=body.holding, supersedes=body.supersedes)
        return JSONResponse({"receipt": _receipt(receipt), **_told(found), "progress": stage_progress()})

    @app.post("/api/undo")
    def undo(body: UndoIn, request: Request) -> JSONResponse:  # pyright: ignore[reportUnusedFunction]
        person = person_of(request.scope["state"])
        receipt = retract(store, stage_id, person.id, body.vote_id, body.key)
        return JSONResponse({"receipt": _receipt(receipt)})

    @app.get("/api/history")
    def before(request: Request) -> JSONResponse:  # pyright: ignore[reportUnusedFunction]
        person = person_of(request.scope["state"])
        found = history(store, stage_id, person.id, limit=SHOWN_BEFORE, current=True)
        return JSONResponse({"votes": [_vote(place, one) for one in found]})


def _next(place: Served, person_id: int, holding: list[int]) -> dict[str, Any]:
    return _told(next_item(place.store, place.stage_id, person_id, holding=holding))


def _told(found: Assignment | NoItem) -> dict[str, Any]:
    if isinstance(found, Assignment):
        return {"item": _shown(found)}
    return {"item": None, "reason": found.reason, "why": found.why}


def _shown(found: Assignment) -> dict[str, Any]:
    """Without the item's key: a telling name would give a known answer away."""
    return {
        "id": found.item_id,
        "prompt": found.prompt,
        "image": found.image is not None,
        "candidates": found.candidates,
        "until": found.until,
    }


def _vote(place: Served, vote: Vote) -> dict[str, Any]:
    shown = assigned(place.store, place.stage_id, vote.person_id, vote.item_id)
    return {
        "id": vote.id,
        "item_id": vote.item_id,
        "kind": vote.kind,
        "choice": vote.choice,
        "strength": vote.strength,
        "comment": vote.comment,
        "edit": None if vote.edit is None else asdict(vote.edit),
        "at": vote.at,
        "key": vote.key,
        "item": None if shown is None else _shown(shown),
    }


def _receipt(receipt: Receipt) -> dict[str, Any]:
    """Whether the item is done is a lead's to know: it would tell one person what others did."""
    return {"vote_id": receipt.vote_id, "item_id": receipt.item_id, "repeated": receipt.repeated}


def _answered(place: Served, person_id: int) -> int:
    later = votes.alias("later")
    with place.store.read() as connection:
        return (
            connection.scalar(
                sa.select(sa.func.count())
                .select_from(votes)
                .where(
                    votes.c.stage_id == place.stage_id,
                    votes.c.person_id == person_id,
                    votes.c.kind != "retract",
                    ~sa.exists().where(later.c.supersedes == votes.c.id),
                )
            )
            or 0
        )


def _refusals(app: FastAPI) -> None:
    """Errors as the page reads them. 5xx means: keep the answer and send it again."""

    @app.exception_handler(DataError)
    def wrong(request: Request, fault: Exception) -> JSONResponse:  # pyright: ignore[reportUnusedFunction]
        if not isinstance(fault, DataError):
            raise fault
        status, name = 400, "wrong"
        if isinstance(fault, BallotError):
            status, name = 422, "ballot"
        elif isinstance(fault, VoteConflictError):
            return told(409, "conflict", fault.what, fault.way_out, vote_id=fault.vote_id)
        elif isinstance(fault, LeaseLostError):
            status, name = 410, "lease_lost"
        elif isinstance(fault, NotAllowedError):
            status, name = 403, "not_allowed"
        return told(status, name, fault.what, fault.way_out)

    @app.exception_handler(RequestValidationError)
    def misfit(request: Request, fault: Exception) -> JSONResponse:  # pyright: ignore[reportUnusedFunction]
        if not isinstance(fault, RequestValidationError):
            raise fault
        first = fault.errors()[0]
        # Places in our own types only: what was sent is not echoed.
        place = ".".join(str(part) for part in first["loc"][1:3] if str(part).isidentifier())
        return told(422, "misfit", f"{place or 'the request'}: {first['type'].replace('_', ' ')}")

    @app.exception_handler(DBAPIError)
    def busy(request: Request, fault: Exception) -> JSONResponse:  # pyright: ignore[reportUnusedFunction]
        return told(
            503, "busy", "the label store does not answer", "the page keeps the answer and tries again"
        )
