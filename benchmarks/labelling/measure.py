"""The rounds: a server process, a process of people, and the store counted against their receipts."""

from __future__ import annotations

import http.client
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import sqlalchemy as sa

from data.feedback import tables
from data.feedback.assignment import Assignment, next_item
from data.feedback.ballots import Ballot
from data.feedback.items import NewItem, add_items
from data.feedback.people import add_person
from data.feedback.places import place_of
from data.feedback.stages import StageSettings, create_stage
from data.feedback.store import Store
from data.feedback.votes import submit

# As long as the page refuses a second press, so that a double one is no second answer.
PAGE_PAUSE = 0.3
ROOT = Path(__file__).parent.parent.parent


@dataclass(frozen=True)
class Setting:
    people: int
    items: int
    many_items: int
    seconds: float
    words: int = 60


def measure(
    setting: Setting, folder: Path, database: str | None, say: Callable[[str], None]
) -> dict[str, Any]:
    result: dict[str, Any] = {
        "setting": asdict(setting),
        # `chrt -r 1 python -m benchmarks.labelling` gives it two cores on a machine that others use too.
        "scheduling": "real time" if os.sched_getscheduler(0) in (os.SCHED_RR, os.SCHED_FIFO) else "ordinary",
        "load_before": os.getloadavg()[0],
        "rounds": {},
    }
    for kind, pause in (("paced", PAGE_PAUSE), ("saturated", 0.0)):
        where = folder / "bench" / kind
        with Store(place_of(where, database).database) as store:
            result["database"] = store.dialect
            stage = create_stage(store, place_of(where, database).stage, StageSettings(gold_rate=0.0))
            add_items(store, stage.id, _items(setting.items, setting.words))
            tokens = [add_person(store, f"{kind} {n}")[1] for n in range(setting.people)]
            result["rounds"][kind] = _round(setting, where, database, store, stage.id, tokens, pause)
        one = result["rounds"][kind]
        say(f"{kind}: {one['votes']} votes, p95 {one['milliseconds']['p95']} ms, load {one['load']:.1f}")
    where = folder / "bench" / "many"
    with Store(place_of(where, database).database) as store:
        stage = create_stage(store, "bench/many", StageSettings(gold_rate=0.0))
        add_items(store, stage.id, _items(setting.many_items, 12))
        result["next_item"] = {"items": setting.many_items, **_alone(store, stage.id)}
    result["load_after"] = os.getloadavg()[0]
    return result


def _items(count: int, words: int) -> list[NewItem]:
    text = " ".join(f"word{n}" for n in range(words))
    return [
        NewItem(f"i{n}", f"Prompt {n}: {text}", [{"text": f"{n} {side} {text}"} for side in "ab"])
        for n in range(count)
    ]


def _round(
    setting: Setting,
    where: Path,
    database: str | None,
    store: Store,
    stage_id: int,
    tokens: list[str],
    pause: float,
) -> dict[str, Any]:
    server, url = _server(where, database)
    try:
        before = _processor_seconds(server.pid)
        script = {"url": url, "tokens": tokens, "seconds": setting.seconds, "pause": pause}
        played = subprocess.run(
            [sys.executable, "-m", "benchmarks.labelling.people"],
            input=json.dumps(script), capture_output=True, text=True, check=True, cwd=ROOT,
        )  # fmt: skip
        used = _processor_seconds(server.pid) - before
    finally:
        server.terminate()
        server.wait(30)
        if server.stdout is not None:
            server.stdout.close()
    found = json.loads(played.stdout)
    with store.read() as connection:
        rows = connection.execute(
            sa.select(tables.votes.c.id, tables.votes.c.item_id, tables.votes.c.person_id).where(
                tables.votes.c.stage_id == stage_id
            )
        ).all()
        judged = connection.scalar(sa.select(tables.stages.c.judged).where(tables.stages.c.id == stage_id))
        most = connection.scalar(
            sa.select(sa.func.max(tables.items.c.judged)).where(tables.items.c.stage_id == stage_id)
        )
    stored = {row.id for row in rows}
    told = set(found["receipts"])
    return {
        "votes": len(told),
        "votes_per_second": round(len(told) / found["seconds"], 2),
        "milliseconds": spread(found["took"]),
        # What a vote and the next item cost the server, whoever else has the machine's processors.
        "server_cpu_milliseconds": round(1000 * used / max(1, len(told)), 2),
        "lost": len(told - stored),
        # Two of one person on an item, one that nobody was told of, a counter that does not say the same, and
        # an item that more people judged than were to.
        "doubled": len(rows) - len({(row.item_id, row.person_id) for row in rows})
        + len(stored - told) + abs(len(rows) - int(judged or 0)) + max(0, int(most or 0) - 2),
        "failed": found["failed"],
        "load": os.getloadavg()[0],
    }  # fmt: skip


def _server(where: Path, database: str | None) -> tuple[subprocess.Popen[str], str]:
    command = [
        sys.executable,
        "-m",
        "pipelines.cli",
        "label",
        "serve",
        str(where),
        "--port",
        "0",
        "--rate",
        "1000",
    ]
    if database is not None:
        command += ["--database", database]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    if server.stdout is not None:
        for line in server.stdout:
            if found := re.search(r"is at (http://\S+);", line):
                return server, found[1]
    raise RuntimeError(f"the server ended with {server.wait()}")


def _processor_seconds(process: int) -> float:
    """Of the process and all its threads so far."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _alone(store: Store, stage_id: int) -> dict[str, float]:
    """The next item, and then a vote that is not timed, so that the search has something to pass."""
    took: list[float] = []
    people = [add_person(store, f"alone {n}")[0].id for n in range(4)]
    for n in range(200):
        person = people[n % 4]
        start = time.perf_counter()
        item = next_item(store, stage_id, person)
        took.append(time.perf_counter() - start)
        if isinstance(item, Assignment):
            submit(store, stage_id, person, item.item_id, Ballot("best", 0, 1), f"alone-{n}")
    return spread(took)


def spread(seconds: list[float]) -> dict[str, float]:
    """Milliseconds; p95 is the smallest that at least 95 of 100 do not exceed."""
    ordered = sorted(seconds)
    at = {"median": 0.5, "p95": 0.95, "p99": 0.99}
    found = {
        name: ordered[max(0, -(-int(share * 100) * len(ordered) // 100) - 1)] for name, share in at.items()
    }
    return {name: round(1000 * value, 3) for name, value in {**found, "most": ordered[-1]}.items()}


def person(
    url: str, token: str, mark: str, until: float, pause: float, first: float, into: dict[str, Any]
) -> None:
    """One person: enter, two items at hand, then answer after answer, each bringing a further item."""
    place = urlsplit(url)
    link = http.client.HTTPConnection(str(place.hostname), place.port, timeout=60)
    link.request("GET", f"/enter/{token}")
    entered = link.getresponse()
    entered.read()
    cookie = (entered.getheader("set-cookie") or "").split(";")[0]
    headers = {"cookie": cookie, "content-type": "application/json", "x-heliograph": mark}

    def post(path: str, body: dict[str, Any]) -> tuple[int, Any]:
        link.request("POST", path, json.dumps(body), headers)
        answer = link.getresponse()
        return answer.status, json.loads(answer.read())

    queue: list[dict[str, Any]] = []
    for _ in range(2):
        _, told = post("/api/next", {"holding": [item["id"] for item in queue]})
        queue += [told["item"]] if told.get("item") else []
    number = 0
    time.sleep(first)
    while queue and time.monotonic() < until:
        shown = time.monotonic()
        item = queue.pop(0)
        number += 1
        body = {
            "item_id": item["id"], "key": f"{mark[:12]}-{number}", "kind": "best", "strength": 1, "seconds": 1.0,
            "choice": item["candidates"][0]["index"], "holding": [one["id"] for one in queue],
        }  # fmt: skip
        start = time.perf_counter()
        status, told = post("/api/vote", body)
        into["took"].append(time.perf_counter() - start)
        if status != 200:
            into["failed"].append(told)
            continue
        into["receipts"].append(told["receipt"]["vote_id"])
        if told.get("item"):
            queue.append(told["item"])
        time.sleep(max(0.0, shown + pause - time.monotonic()))
    link.close()


def play(script: dict[str, Any], mark: Callable[[str], str]) -> dict[str, Any]:
    """All people at once; returns what they saw."""
    begun = time.monotonic()
    into: dict[str, Any] = {"took": [], "receipts": [], "failed": []}
    threads = [
        threading.Thread(
            target=person,
            # People do not answer at a word of command: their first answers are spread over one pause.
            args=(
                script["url"],
                token,
                mark(token),
                begun + script["seconds"],
                script["pause"],
                script["pause"] * nth / len(script["tokens"]),
                into,
            ),
        )
        for nth, token in enumerate(script["tokens"])
    ]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    return {**into, "failed": len(into["failed"]), "seconds": time.monotonic() - begun}
