"""The label server over HTTP: who gets in, what is refused, and that a confirmed vote is never lost or doubled."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from data import pictures
from data.errors import DataError
from data.feedback import tables
from data.feedback.history import history
from data.feedback.items import NewItem, add_items
from data.feedback.people import add_person, get_person, renew_token, set_active, set_role
from data.feedback.places import place_of
from data.feedback.roster import bar
from data.feedback.stages import Stage, StageSettings, create_stage, set_state
from data.feedback.store import Store
from data.feedback.web import app as web_app
from data.feedback.web.app import FILES, Served, create_app
from data.feedback.web.bodies import VoteIn
from data.feedback.web.guard import DOOR, HEADERS, LARGEST_BODY, Pace, csrf_token
from data.feedback.web.serving import is_loopback
from data.formats import read_file
from tests.handmade import environment, heliograph
from tests.label_client import Client, serve
from tests.labelling import a_stage, check_counters, rows

PNG = b"\x89PNG\r\n\x1a\n" + b"picture"


@contextmanager
def http_of(store: Store, stage: Stage, folder: Path, **more: Any) -> Iterator[httpx.Client]:
    """The real application in a thread of uvicorn's, on a port of its own."""
    import uvicorn

    app = create_app(Served(store, stage.id, folder), pace=more.pop("pace", Pace(10_000, 10_000)))
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, access_log=False, log_level="error", server_header=False))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{listener.getsockname()[1]}", timeout=30) as http:
            yield http
    finally:
        server.should_exit = True
        thread.join(20)
        listener.close()


class Site:
    """A served stage, with a client for each person asked for."""

    def __init__(self, store: Store, stage: Stage, folder: Path, http: httpx.Client) -> None:
        self.store, self.stage, self.folder, self.http = store, stage, folder, http
        self.opened: list[httpx.Client] = []

    def person(self, name: str = "Ada", role: Any = "annotator", *, enter: bool = True) -> Client:
        _, token = add_person(self.store, name, role)
        http = httpx.Client(base_url=self.http.base_url, timeout=30)
        self.opened.append(http)
        client = Client(http, token)
        return client.enter() if enter else client


@pytest.fixture
def sqlite_store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "label.sqlite") as store:
        yield store


@pytest.fixture
def site(sqlite_store: Store, tmp_path: Path) -> Iterator[Site]:
    stage = a_stage(sqlite_store, items=6, overlap=2)
    with http_of(sqlite_store, stage, tmp_path) as http:
        found = Site(sqlite_store, stage, tmp_path, http)
        yield found
        for one in found.opened:
            one.close()


def paths(app: Any) -> list[tuple[str, str]]:
    """Every route there is, so that a new one is part of the tests below by itself."""
    found: list[tuple[str, str]] = []
    for route in app.routes:
        for method in sorted(route.methods - {"HEAD"}):
            path = (
                route.path.replace("{item_id}", "1").replace("{name}", "label.js").replace("{what}", "pairs")
            )
            found.append((method, path))
    return found


# ---- who gets in


def test_without_a_token_no_route_answers(site: Site, tmp_path: Path) -> None:
    app = create_app(Served(site.store, site.stage.id, tmp_path))
    routes = [(method, path) for method, path in paths(app) if not path.startswith(DOOR)]
    assert len(routes) >= 15
    for method, path in [*routes, ("GET", "/nothing"), ("GET", "/docs"), ("GET", "/openapi.json")]:
        for cookies in ({}, {"heliograph": "x"}, {cookie(site): "x" * 43}, {cookie(site): ""}):
            body = {"json": {}} if method == "POST" else {}
            answer = httpx.request(method, str(site.http.base_url.join(path)), cookies=cookies, **body)
            assert answer.status_code == 401, (method, path, cookies)
    assert httpx.get(str(site.http.base_url.join("/enter/" + "x" * 43))).status_code == 401


def cookie(site: Site) -> str:
    from data.feedback.web.guard import cookie_name

    return cookie_name(site.store, site.stage.id)


def as_cookie(site: Site, path: str, cookies: str) -> int:
    return httpx.get(str(site.http.base_url.join(path)), headers={"cookie": cookies}).status_code


def test_the_link_opens_a_session_and_leaves_no_token_in_the_address(site: Site) -> None:
    ada = site.person(enter=False)
    answer = ada.http.get(f"/enter/{ada.token}")
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    given = answer.headers["set-cookie"]
    assert "HttpOnly" in given
    assert "SameSite=lax" in given
    assert "Path=/" in given
    page = ada.http.get("/")
    assert page.status_code == 200
    assert ada.token not in page.text
    assert ada.http.get("/api/me").json()["name"] == "Ada"
    assert "Secure" not in given
    # Another browser: a Secure cookie would not be sent over plain HTTP again.
    bob = site.person("Bob", enter=False)
    behind_tls = bob.http.get(f"/enter/{bob.token}", headers={"x-forwarded-proto": "https"})
    assert "Secure" in behind_tls.headers["set-cookie"]
    lead = site.person("Lena", "lead", enter=False)
    assert lead.http.get(f"/enter/{lead.token}").headers["location"] == "/lead"
    assert ada.post("/api/leave", {}).status_code == 200
    assert ada.http.get("/api/me").status_code == 401


def test_the_store_holds_no_token(site: Site) -> None:
    ada = site.person()
    ada.vote(ada.next()["item"])
    site.store.close()
    kept = b"".join(path.read_bytes() for path in site.folder.glob("label.sqlite*"))
    assert ada.token.encode() not in kept
    assert b"Ada" in kept


def test_a_token_that_was_renewed_or_let_rest_opens_nothing_at_once(site: Site) -> None:
    ada, bob = site.person("Ada"), site.person("Bob")
    renew_token(site.store, get_person(site.store, "Ada").id)
    set_active(site.store, get_person(site.store, "Bob").id, False)
    for client in (ada, bob):
        assert client.http.get("/api/me").status_code == 401
        assert client.post("/api/next", {}).status_code == 401


def test_a_token_of_another_stage_s_store_is_a_stranger_s(site: Site, tmp_path: Path) -> None:
    with Store(tmp_path / "other.sqlite") as other:
        _, token = add_person(other, "Eve", "lead")
    assert as_cookie(site, "/api/me", f"{cookie(site)}={token}") == 401


def test_one_person_cannot_touch_what_another_holds_or_said(site: Site) -> None:
    ada, eve = site.person("Ada"), site.person("Eve")
    item = ada.next()["item"]
    receipt = ada.vote(item).json()["receipt"]
    assert eve.post("/api/undo", {"vote_id": receipt["vote_id"], "key": "eves-key-1"}).status_code == 400
    assert eve.vote(item, supersedes=receipt["vote_id"]).status_code in (409, 410)
    assert eve.vote(item).status_code == 410  # never given to Eve
    assert eve.http.get("/api/history").json()["votes"] == []
    # The same key is another vote for another person.
    assert eve.vote(eve.next()["item"], key="press-0001").status_code == 200
    assert len(rows(site.store, tables.votes)) == 2


# ---- forged requests


@pytest.mark.parametrize(
    "headers",
    [
        {"x-heliograph": ""},
        {"x-heliograph": "0" * 64},
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
    ids=str,
)
def test_a_forged_request_changes_nothing(site: Site, headers: dict[str, str]) -> None:
    ada = site.person()
    item = ada.next()["item"]
    body = {"item_id": item["id"], "key": "forged-1", "kind": "best", "choice": 0}
    answer = ada.post("/api/vote", body, **headers)
    assert (answer.status_code, answer.json()["error"]) == (403, "forged")
    assert rows(site.store, tables.votes) == []


def test_a_form_of_another_site_and_another_person_s_mark_are_refused(site: Site) -> None:
    ada, eve = site.person("Ada"), site.person("Eve")
    item = ada.next()["item"]
    body = {"item_id": item["id"], "key": "forged-1", "kind": "best", "choice": 0}
    mark = csrf_token(ada.token)
    plain = ada.http.post(
        "/api/vote", content=json.dumps(body), headers={"content-type": "text/plain", "x-heliograph": mark}
    )
    assert plain.status_code == 415
    form = ada.http.post("/api/vote", data={"item_id": "1"}, headers={"x-heliograph": mark})
    assert form.status_code == 415
    assert (
        ada.http.post("/api/vote", json=body, headers={"x-heliograph": csrf_token(eve.token)}).status_code
        == 403
    )
    # Nothing changes by GET, which any page can make a browser send.
    assert ada.http.get("/api/vote").status_code == 405
    assert ada.http.get("/api/lead/state").status_code == 403
    same = str(site.http.base_url).rstrip("/")
    assert ada.post("/api/vote", body, origin=same, **{"sec-fetch-site": "same-origin"}).status_code == 200


# ---- roles


def test_an_annotator_gets_nothing_of_a_lead_s(site: Site, tmp_path: Path) -> None:
    ada = site.person()
    app = create_app(Served(site.store, site.stage.id, tmp_path))
    leads = [(m, p) for m, p in paths(app) if p.startswith(("/lead", "/api/lead"))]
    assert len(leads) >= 7
    for method, path in leads:
        answer = (
            ada.http.get(path) if method == "GET" else ada.post(path, {"state": "closed", "person_id": 1})
        )
        assert answer.status_code == 403, (method, path)
    for path in ("/api/lead/progress/", "//api/lead/progress", "/api/./lead/progress", "/api/%6cead/progress",
                 "/API/lead/progress", "/api/x/../lead/progress"):  # fmt: skip
        answer = raw(site, "GET", path, ada)
        assert not answer.startswith(b"HTTP/1.1 200"), path
        assert b'"people"' not in answer
    assert as_cookie(site, "/api/lead/progress", f"{cookie(site)}={ada.token}; role=lead") == 403


def raw(site: Site, method: str, target: str, client: Client, body: bytes = b"", *headers: str) -> bytes:
    """Without a library that would tidy the address up first."""
    host, port = site.http.base_url.host, site.http.base_url.port
    lines = [f"{method} {target} HTTP/1.1", f"Host: {host}:{port}", f"Cookie: {cookie(site)}={client.token}",
             f"x-heliograph: {csrf_token(client.token)}", "Connection: close", *headers]  # fmt: skip
    with socket.create_connection((str(host), int(port or 80)), timeout=20) as link:
        link.sendall("\r\n".join([*lines, "", ""]).encode() + body)
        found = b""
        try:
            while part := link.recv(65536):
                found += part
        except ConnectionResetError:
            pass
    return found


def test_a_lead_who_is_one_no_more_loses_the_page_at_once(site: Site) -> None:
    lead = site.person("Lena", "lead")
    assert lead.http.get("/api/lead/progress").status_code == 200
    set_role(site.store, get_person(site.store, "Lena").id, "annotator")
    assert lead.http.get("/api/lead/progress").status_code == 403
    assert lead.post("/api/lead/state", {"state": "closed"}).status_code == 403


def test_a_lead_pauses_bars_takes_back_and_takes_along(site: Site) -> None:
    lead, ada, bob = site.person("Lena", "lead"), site.person("Ada"), site.person("Bob")
    item = ada.next()["item"]
    assert ada.vote(item, choice=item["candidates"][0]["index"], holding=[]).json()["item"] is not None
    bob.next()
    told = lead.http.get("/api/lead/progress").json()
    assert (told["judged"], told["items"], told["needed"], told["holding"]) == (1, 6, 11, 2)
    assert {one["name"]: one["votes"] for one in told["people"]} == {"Ada": 1, "Bob": 0}
    assert lead.post("/api/lead/state", {"state": "paused"}).json() == {"state": "paused"}
    assert ada.next()["reason"] == "paused"
    lead.post("/api/lead/state", {"state": "open"})
    bob_id = get_person(site.store, "Bob").id
    assert lead.post("/api/lead/release", {"person_id": bob_id}).json() == {"released": 1}
    assert lead.post("/api/lead/bar", {"person_id": bob_id, "reason": "too fast"}).status_code == 200
    refused = bob.post("/api/next", {})
    assert (refused.status_code, refused.json()["what"]) == (403, "Bob is barred from this stage: too fast")
    assert lead.post("/api/lead/unbar", {"person_id": bob_id}).status_code == 200
    assert bob.next()["item"] is not None
    pairs = lead.http.get("/api/lead/export/pairs.jsonl")
    assert "attachment" in pairs.headers["content-disposition"]
    (pair,) = [json.loads(line) for line in pairs.text.splitlines()]
    chosen = item["candidates"][0]
    assert (pair["chosen"], pair["n_votes"], pair["chosen_index"]) == (chosen["text"], 1, chosen["index"])
    assert pair["weight"] == pytest.approx(1 / 3)  # strength 1 of 3
    assert len(lead.http.get("/api/lead/export/items.jsonl").text.splitlines()) == 6
    assert lead.http.get("/api/lead/export/secrets.jsonl").status_code == 404
    lead.post("/api/lead/state", {"state": "closed"})
    assert ada.next()["reason"] == "closed"
    check_counters(site.store, site.stage)


# ---- what is sent and shown


def test_every_answer_carries_the_headers(site: Site) -> None:
    ada = site.person()
    for path in ("/", "/api/me", "/page/label.js", "/nothing", "/image/1", "/lead"):
        answer = ada.http.get(path)
        for name, value in HEADERS:
            assert answer.headers[name] == value, (path, name)
        assert "cache-control" in answer.headers
        assert "server" not in answer.headers
    assert "'unsafe" not in dict(HEADERS)["content-security-policy"]


def test_the_pages_hold_no_inline_code_and_ask_nobody_else() -> None:
    folder = Path(web_app.__file__).parent / "page"
    assert {path.name for path in folder.iterdir()} == {*FILES, "label.html", "lead.html"}
    for name in ("label.html", "lead.html"):
        text = (folder / name).read_text()
        assert not re.search(r"<script(?![^>]*\ssrc=)", text)
        assert not re.search(r"\s(on\w+|style)=", text)
        assert "<style" not in text
    for path in folder.iterdir():
        text = path.read_text()
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", text
        ), path
        assert set(re.findall(r"https?://[^\s\"']+", text)) <= {"http://www.w3.org/1998/Math/MathML"}, path


def test_the_page_is_not_told_what_would_give_an_answer_away(site: Site) -> None:
    stage = create_stage(site.store, "gold", StageSettings(gold_rate=0.9))
    gold = {"kind": "best", "choice": 0}
    add_items(site.store, stage.id, [
        NewItem(f"gold-{n}", "p", [{"text": "a", "model": "ours"}, {"text": "b"}], gold=gold) for n in range(3)
    ] + [NewItem("plain", "p", [{"text": "a"}, {"text": "b"}])])  # fmt: skip
    with http_of(site.store, stage, site.folder) as http:
        _, token = add_person(site.store, "Gus")
        gus = Client(http, token).enter()
        item = gus.next()["item"]
        assert set(item) == {"id", "prompt", "image", "candidates", "until"}
        assert all(set(one) == {"index", "text"} for one in item["candidates"])
        assert set(gus.vote(item).json()["receipt"]) == {"vote_id", "item_id", "repeated"}


def test_the_order_is_each_person_s_own_and_on_record(site: Site) -> None:
    orders: dict[str, list[int]] = {}
    for name in "ABCDEFGH":
        client = site.person(name)
        item = client.next()["item"]
        orders[name] = [one["index"] for one in item["candidates"]]
        if name in "AB":
            client.vote(item)
    assert {tuple(order) for order in orders.values()} == {(0, 1), (1, 0)}
    names = {get_person(site.store, name).id: name for name in orders}
    for vote in history(site.store, site.stage.id):
        assert vote.shown == orders[names[vote.person_id]]


# ---- sizes and nonsense


def test_a_body_that_is_too_large_is_refused_whatever_it_says_of_its_size(site: Site) -> None:
    ada = site.person()
    answer = ada.post("/api/vote", {"text": "x" * LARGEST_BODY})
    assert (answer.status_code, answer.json()["error"]) == (413, "too_large")
    kind = "Content-Type: application/json"
    lie = raw(site, "POST", "/api/vote", ada, b"", kind, "Content-Length: 99999999999")
    assert lie.startswith(b"HTTP/1.1 413")
    chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
    flood = raw(site, "POST", "/api/vote", ada, chunk * 20 + b"0\r\n\r\n", kind, "Transfer-Encoding: chunked")
    assert flood.startswith(b"HTTP/1.1 413") or flood == b""
    assert ada.http.get("/api/me").status_code == 200
    # The largest text that the store takes does fit.
    item = ada.next()["item"]
    edit = {"text": "ÿ" * 200_000, "candidate": 0}
    assert ada.vote(item, edit=edit).status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        [], "x", 1, {}, {"item_id": 1}, {"item_id": "1", "key": "k" * 9, "kind": "tie"},
        {"item_id": 2**63, "key": "k" * 9, "kind": "tie"}, {"item_id": 1.5, "key": "k" * 9, "kind": "tie"},
        {"item_id": True, "key": "k" * 9, "kind": "tie"}, {"item_id": 1, "key": "k", "kind": "tie"},
        {"item_id": 1, "key": "k" * 201, "kind": "tie"}, {"item_id": 1, "key": "k" * 9, "kind": "retract"},
        {"item_id": 1, "key": "k" * 9, "kind": "best", "choice": [[1]]},
        {"item_id": 1, "key": "k" * 9, "kind": "best", "choice": "0"},
        {"item_id": 1, "key": "k" * 9, "kind": "tie", "role": "lead"},
        {"item_id": 1, "key": "k" * 9, "kind": "tie", "person_id": 1},
        {"item_id": 1, "key": "k" * 9, "kind": "tie", "holding": list(range(1, 30))},
        {"item_id": 1, "key": "k" * 9, "kind": "tie", "seconds": -1},
        {"item_id": 1, "key": "k" * 9, "kind": "tie", "edit": {"text": 1}},
    ],
    ids=lambda body: json.dumps(body)[:60],
)  # fmt: skip
def test_a_vote_of_another_shape_is_refused_before_the_store(site: Site, body: Any) -> None:
    ada = site.person()
    answer = ada.post("/api/vote", body)
    assert answer.status_code == 422, answer.text
    assert set(answer.json()) == {"error", "what", "way_out"}
    assert rows(site.store, tables.votes) == []


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "null",
        "[" * 100_000,
        '{"item_id": NaN',
        '"\ud800"',
        '{"item_id":1,"key":"\\ud800aaaaaaa","kind":"tie"}',
        "\x00",
    ],
    ids=["empty", "open", "null", "deep", "nan", "surrogate", "escaped surrogate", "nul"],
)
def test_what_is_no_json_is_told_so(site: Site, text: str) -> None:
    ada = site.person()
    headers = {"content-type": "application/json", "x-heliograph": csrf_token(ada.token)}
    answer = ada.http.post("/api/vote", content=text.encode("utf-8", "surrogatepass"), headers=headers)
    assert answer.status_code in (400, 422), answer.text
    assert rows(site.store, tables.votes) == []


def test_votes_that_do_not_fit_the_item_are_told_why(site: Site) -> None:
    ada = site.person()
    item = ada.next()["item"]
    for more in ({"choice": 2}, {"strength": 9}, {"kind": "choose", "choice": [0]}, {"kind": "flag", "choice": None},
                 {"kind": "edit", "choice": None}, {"comment": "a\0b"}, {"comment": "x" * 10_001}):  # fmt: skip
        answer = ada.vote(item, **{"choice": 0, **more})
        assert answer.status_code == 422, more
        assert answer.json()["what"]
    assert rows(site.store, tables.votes) == []


def test_the_pace_of_one_person_is_bounded_and_leaves_others_alone(site: Site) -> None:
    with http_of(site.store, site.stage, site.folder, pace=Pace(rate=5, burst=10)) as http:
        tokens = [add_person(site.store, name)[1] for name in ("Fast", "Slow")]
        fast = Client(http, tokens[0]).enter()
        began = time.monotonic()
        answers = [http.get("/api/me") for _ in range(60)]
        refilled = 5 * (time.monotonic() - began)
        let_in = sum(one.status_code == 200 for one in answers)
        assert 10 <= let_in <= 10 + refilled + 1
        assert let_in < 60
        last = next(one for one in answers if one.status_code == 429)
        assert int(last.headers["retry-after"]) >= 1
        assert last.json()["error"] == "pace"
        other = httpx.get(
            str(http.base_url.join("/api/me")), headers={"cookie": f"{cookie(site)}={tokens[1]}"}
        )
        assert other.status_code == 200
        time.sleep(1)
        assert fast.http.get("/api/me").status_code == 200


def test_strangers_who_try_links_are_slowed_and_people_are_not(sqlite_store: Store, tmp_path: Path) -> None:
    stage = create_stage(sqlite_store, "slow", StageSettings())
    with http_of(sqlite_store, stage, tmp_path, pace=Pace(1, 5)) as http:
        token = add_person(sqlite_store, "Ada")[1]
        ada = Client(http, token).enter()
        told = [http.get(f"/enter/guess-{n}").status_code for n in range(12)]
        assert told[:4] == [401] * 4
        assert told.count(429) >= 6
        assert httpx.get(http.base_url.join("/api/me")).status_code == 429  # the same address
        assert ada.http.get("/api/me").status_code == 200


def test_the_arithmetic_of_the_pace() -> None:
    pace = Pace(rate=2, burst=3)
    assert [pace.wait(1, 0.0) for _ in range(4)] == [0, 0, 0, 0.5]  # three at once, then one in half a second
    assert pace.wait(2, 0.0) == 0
    assert pace.wait(1, 0.5) == 0
    assert pace.wait(1, 0.5) == 0.5
    assert [pace.wait(1, 100.0) for _ in range(4)] == [0, 0, 0, 0.5]  # the reserve does not grow beyond 3


# ---- images


def with_image(site: Site, name: str) -> tuple[Client, int]:
    stage = site.stage
    site.store.engine.dispose()
    add_items(site.store, stage.id, [NewItem("pictured", "p", [{"text": "a"}, {"text": "b"}], image=name)])
    ada = site.person("Painter")
    held: list[int] = []
    while True:
        item = ada.next(*held)["item"]
        if item is None:
            raise AssertionError("the item with the image did not come")
        if item["image"]:
            return ada, item["id"]
        ada.vote(item)


def test_an_image_is_served_to_whom_its_item_was_given(site: Site) -> None:
    (site.folder / "a picture.png").write_bytes(PNG)
    ada, item = with_image(site, "a picture.png")
    answer = ada.http.get(f"/image/{item}")
    assert (answer.status_code, answer.content, answer.headers["content-type"]) == (200, PNG, "image/png")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert site.person("Eve").http.get(f"/image/{item}").status_code == 403
    assert ada.http.get("/image/999").status_code == 403
    assert ada.http.get(f"/image/{2**80}").status_code == 404
    assert ada.http.get("/image/../label.sqlite").status_code == 404


@pytest.mark.parametrize(
    "name",
    ["../secret.png", "/etc/passwd", "sub/../../secret.png", "link.png", "folder", "label.sqlite", "page.svg",
     "fake.png", "..\\secret.png", "a\nb", "loop.png", "x" * 3000],
)  # fmt: skip
def test_an_image_that_leads_out_or_is_none_is_not_served(site: Site, name: str) -> None:
    (site.folder.parent / "secret.png").write_bytes(PNG)
    (site.folder / "folder").mkdir()
    (site.folder / "link.png").symlink_to(site.folder.parent / "secret.png")
    (site.folder / "loop.png").symlink_to("loop.png")
    (site.folder / "page.svg").write_text(
        "<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>"
    )
    (site.folder / "fake.png").write_text("<script>alert(1)</script>")
    ada, item = with_image(site, name)
    answer = ada.http.get(f"/image/{item}")
    assert (answer.status_code, answer.json()["error"]) == (404, "no_image")


def test_images_are_known_by_their_first_bytes(tmp_path: Path) -> None:
    kinds = {"png": PNG, "jpeg": b"\xff\xd8\xff\xe0", "gif": b"GIF89a..", "webp": b"RIFF0000WEBPVP8 "}
    for kind, data in kinds.items():
        (tmp_path / "x").write_bytes(data)
        assert pictures.read_picture(tmp_path, "x") == (data, f"image/{kind}")
    with pytest.raises(DataError, match="not a file in the folder"):
        pictures.find(tmp_path, "../x")


# ---- nothing lost, nothing doubled


def test_the_same_press_is_one_vote_however_often_it_is_sent(site: Site) -> None:
    ada = site.person()
    item = ada.next()["item"]
    body = {"item_id": item["id"], "key": "one-press", "kind": "best", "choice": 1, "holding": []}
    first = ada.post("/api/vote", body).json()
    assert first["progress"] == {"done": 0, "items": 6}
    results: list[httpx.Response] = []
    threads = [threading.Thread(target=lambda: results.append(ada.post("/api/vote", body))) for _ in range(8)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert {one.status_code for one in results} == {200}
    assert {one.json()["receipt"]["vote_id"] for one in results} == {first["receipt"]["vote_id"]}
    # Another press on the same item, as from a second tab, is told apart and refused.
    again = ada.vote(item, choice=1)
    assert (again.status_code, again.json()["vote_id"]) == (409, first["receipt"]["vote_id"])
    assert len(rows(site.store, tables.votes)) == 1
    check_counters(site.store, site.stage)


def test_undo_gives_the_item_back_and_the_vote_stays_on_record(site: Site) -> None:
    ada = site.person()
    item = ada.next()["item"]
    number = ada.vote(item).json()["receipt"]["vote_id"]
    undo = {"vote_id": number, "key": "undo-press"}
    assert ada.post("/api/undo", undo).json()["receipt"]["repeated"] is False
    assert ada.post("/api/undo", undo).json()["receipt"]["repeated"] is True
    assert ada.http.get("/api/history").json()["votes"] == []
    assert ada.next()["item"]["id"] == item["id"]
    assert ada.vote(item, choice=1).status_code == 200
    assert [one.kind for one in rows(site.store, tables.votes)] == ["best", "retract", "best"]
    check_counters(site.store, site.stage)


def test_a_vote_s_receipt_is_given_though_no_further_item_can_be(site: Site) -> None:
    ada = site.person()
    item = ada.next()["item"]
    set_state(site.store, site.stage.id, "paused")
    told = ada.vote(item, holding=[]).json()
    assert told["receipt"]["item_id"] == item["id"]
    assert (told["item"], told["reason"]) == (None, "paused")
    bar(site.store, site.stage.id, get_person(site.store, "Ada").id, "rest")
    assert ada.vote(item).status_code == 403


def test_a_vote_body_becomes_the_ballot_it_says() -> None:
    body = VoteIn(item_id=1, key="k" * 8, kind="rank", choice=[2, None, 1], seconds=1.5)
    ballot = body.ballot()
    assert (ballot.kind, ballot.choice, ballot.strength, ballot.edit) == ("rank", [2, None, 1], None, None)


def test_kill_9_between_confirmation_and_next_loses_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "demo" / "pick"
    place = place_of(folder)
    with Store(place.database) as store:
        stage = create_stage(store, place.stage, StageSettings(overlap=1, gold_rate=0))
        add_items(store, stage.id, [NewItem(f"i{n}", "p", [{"text": "a"}, {"text": "b"}]) for n in range(40)])
        _, token = add_person(store, "Ada")
    confirmed: dict[int, int] = {}
    for round_ in range(4):
        process, url = serve(folder)
        try:
            with httpx.Client(base_url=url, timeout=20) as http:
                ada = Client(http, token)
                if round_ == 0:
                    ada.enter()
                    jar = dict(http.cookies)
                # The session outlives the server: the cookie is all that it is.
                http.cookies.update(jar)
                for n in range(5):
                    item = ada.next()["item"]
                    assert item["id"] not in confirmed
                    key = f"round-{round_}-{n}"
                    body = {"item_id": item["id"], "key": key, "kind": "best", "choice": n % 2}
                    receipt = ada.post("/api/vote", body).json()["receipt"]
                    confirmed[item["id"]] = receipt["vote_id"]
        finally:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            if process.stdout is not None:
                process.stdout.close()
    with Store(place.database) as store:
        assert {one.item_id: one.id for one in rows(store, tables.votes)} == confirmed
        assert len(confirmed) == 20
        check_counters(store, stage)


# ---- the command


def write_items(path: Path, *items: Any) -> Path:
    path.write_text("".join(json.dumps(one) + "\n" for one in items))
    return path


def test_the_command_imports_adds_people_reports_and_exports(tmp_path: Path) -> None:
    votes = [{"person": "Old", "kind": "best", "choice": 1, "strength": 3}]
    write_items(
        tmp_path / "items.jsonl",
        {"id": "a", "prompt": "p", "candidates": ["x", "y"], "votes": votes},
        {"id": "b", "prompt": "q", "candidates": ["x", "y"], "image": "gone.png"},
    )
    (tmp_path / "s.yaml").write_text("question: Which one?\noverlap: 1\n")
    done = heliograph("label", "import", "team", "items.jsonl", "--settings", "s.yaml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "2 items and 1 votes" in done.stdout
    assert "gone.png" in done.stdout
    link = heliograph(
        "label", "people", "add", "team", "Ada", "--url", "https://label.example/", cwd=tmp_path
    )
    assert re.fullmatch(r"https://label\.example/enter/[\w-]{43}\n", link.stdout)
    assert heliograph("label", "people", "add", "team", "Ada", cwd=tmp_path).returncode == 2
    assert heliograph("label", "people", "add", "team", "Bob", "--role", "king", cwd=tmp_path).returncode == 2
    renewed = heliograph("label", "people", "renew", "team", "Ada", cwd=tmp_path)
    assert renewed.stdout.startswith("http://127.0.0.1:8765/enter/")
    assert renewed.stdout.split("/")[-1] != link.stdout.split("/")[-1]
    heliograph("label", "people", "set", "team", "Ada", "--role", "lead", "--inactive", cwd=tmp_path)
    listed = json.loads(heliograph("label", "people", "list", "team", "--json", cwd=tmp_path).stdout)
    assert listed[1] == {"name": "Ada", "role": "lead", "active": False}
    figures = json.loads(heliograph("label", "report", "team", "--json", cwd=tmp_path).stdout)
    assert (figures["items"], figures["done"], figures["judged"]) == (2, 1, 1)
    assert "1 of 2 items done" in heliograph("label", "report", "team", cwd=tmp_path).stdout
    assert heliograph("label", "export", "team", "pairs.jsonl", cwd=tmp_path).returncode == 0
    (pair,) = [json.loads(line) for line in (tmp_path / "pairs.jsonl").read_text().splitlines()]
    assert (pair["chosen"], pair["rejected"], pair["weight"]) == ("y", "x", 1.0)
    assert heliograph("label", "export", "team", "all.jsonl", "--what", "items", cwd=tmp_path).returncode == 0
    again = heliograph("label", "import", "copy", "all.jsonl", cwd=tmp_path)
    assert "2 items and 1 votes" in again.stdout
    assert heliograph("label", "export", "team", "pairs.doc", cwd=tmp_path).returncode == 2
    assert heliograph("label", "export", "team", "folder", cwd=tmp_path).returncode == 0
    (pair,) = read_file(tmp_path / "folder" / "data" / "train-00000-of-00001.parquet", "auto")
    assert (pair.row["chosen"], pair.row["rejected"]) == ("y", "x")


def test_an_export_says_what_the_other_tool_has_no_place_for(tmp_path: Path) -> None:
    votes = [
        {"person": "Ada", "kind": "best", "choice": 1, "edit": {"text": "z", "candidate": 0}},
        {"person": "Bob", "kind": "flag", "comment": "cut off"},
        {"person": "Eve", "kind": "skip"},
    ]
    write_items(
        tmp_path / "items.jsonl", {"id": "a", "prompt": "p", "candidates": ["x", "y"], "votes": votes}
    )
    assert heliograph("label", "import", "team", "items.jsonl", cwd=tmp_path).returncode == 0
    told = heliograph("label", "export", "team", "a.json", "--what", "argilla", cwd=tmp_path).stdout
    assert "argilla has no place for 1 of kind edit, 1 of kind flag, 1 of kind skip" in told
    told = heliograph("label", "export", "team", "l.json", "--what", "label-studio", cwd=tmp_path).stdout
    assert "label-studio has no place for 1 of kind edit, 1 of kind flag;" in told
    told = heliograph("label", "export", "team", "i.jsonl", "--what", "items", cwd=tmp_path).stdout
    assert told == "1 rows in i.jsonl\n"


def test_an_import_that_fails_makes_no_stage(tmp_path: Path) -> None:
    write_items(tmp_path / "items.jsonl", {"id": "a", "prompt": "p", "candidates": []})
    assert heliograph("label", "import", "team", "items.jsonl", cwd=tmp_path).returncode == 2
    served = heliograph("label", "report", "team", cwd=tmp_path)
    assert served.returncode == 2
    folder = heliograph("label", "import", "team", ".", cwd=tmp_path)
    assert "a folder, not a file" in folder.stderr


@pytest.mark.parametrize(
    "line",
    [
        b'{"id": "a", "prompt": "p", "candidates": ["x", "y"]}\n{"id": "a", "prompt": "p", "candidates": ["x"]}\n',
        b'{"id": "a", "prompt": "p", "candidates": ["x\\u0000", "y"]}\n',
        b'{"id": "a", "prompt": "p", "candidates": ["x\\ud800", "y"]}\n',
        b'{"id": "a", "prompt": ' + b"[" * 5000 + b"]" * 5000 + b', "candidates": ["x"]}\n',
        b'{"id": "a", "prompt": "p", "candidates": ["x", "y"], "gold": {"kind": "best", "choice": 7}}\n',
        b'{"id": "a", "prompt": "p", "candidates": ["x", "y"], "scores": [NaN, 1]}\n',
        b'{"id": "a", "prompt": "p", "candidates": ["x"], "id": "b"}\n',
        b'{"id": "a", "prompt": "p", "candidates": ["x"], "votes": [{"person": "Ada", "kind": "retract"}]}\n',
        b'{"id": "a", "prompt": "p", "candidates": ["x"], "votes": [{"person": "<b>\\n", "kind": "tie"}]}\n',
        b"\xff\xfe",
        b"",
    ],
)
def test_a_hostile_import_stores_nothing_and_says_where(tmp_path: Path, line: bytes) -> None:
    (tmp_path / "good.jsonl").write_text('{"id": "good", "prompt": "p", "candidates": ["x", "y"]}\n')
    (tmp_path / "bad.jsonl").write_bytes(line)
    assert heliograph("label", "import", "team", "good.jsonl", cwd=tmp_path).returncode == 0
    done = heliograph("label", "import", "team", "bad.jsonl", cwd=tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    with Store(tmp_path / "team" / "label.sqlite") as store:
        assert [one.key for one in rows(store, tables.items)] == ["good"]


def test_only_this_machine_is_served_unless_told_otherwise(tmp_path: Path) -> None:
    assert [is_loopback(host) for host in ("127.0.0.1", "localhost", "::1", "127.9.9.9")] == [True] * 4
    assert [is_loopback(host) for host in ("0.0.0.0", "::", "192.168.1.5", "label.example")] == [False] * 4
    write_items(tmp_path / "items.jsonl", {"id": "a", "prompt": "p", "candidates": ["x", "y"]})
    heliograph("label", "import", "team", "items.jsonl", cwd=tmp_path)
    process, url = serve(tmp_path / "team")
    try:
        assert url.startswith("http://127.0.0.1:")
        port = url.rsplit(":", 1)[1]
        taken = heliograph("label", "serve", "team", "--port", port, cwd=tmp_path)
        assert (taken.returncode, "cannot be listened on" in taken.stderr) == (2, True)
    finally:
        process.terminate()
        assert process.wait(20) in (0, -signal.SIGTERM)
        if process.stdout is not None:
            process.stdout.close()
    missing = heliograph("label", "serve", "nowhere", cwd=tmp_path)
    assert missing.returncode == 2
    assert "there is no label store here" in missing.stderr


def test_the_command_imports_no_torch() -> None:
    code = (
        "import sys, pipelines.label_cli, data.feedback.web.app, data.feedback.collecting, data.feedback.web.serving; "
        "print(sorted({'torch', 'transformers', 'trl', 'datasets', 'pyarrow'} & set(sys.modules)))"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True, env=environment()).strip() == "[]"
