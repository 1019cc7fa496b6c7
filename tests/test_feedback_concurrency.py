"""Twenty people at once, as threads of one server and as processes: no vote lost, none doubled, none too many."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import textwrap
import threading
from collections import Counter
from pathlib import Path

from data.feedback import tables
from data.feedback.assignment import Nothing, next_item
from data.feedback.ballots import Ballot
from data.feedback.history import history
from data.feedback.stages import get_stage
from data.feedback.store import Store
from data.feedback.votes import Receipt, VoteConflictError, submit
from tests import labelling
from tests.labelling import BEST, a_stage, annotators, check_counters, given, rows

location, sqlite, store = labelling.location, labelling.sqlite, labelling.store
ROOT = Path(__file__).parent.parent
OVERLAP = 3
ITEMS = 40


def test_twenty_threads(store: Store) -> None:
    """Each sends every vote twice, as an impatient person does; the second one at times from another thread."""
    stage = a_stage(store, items=ITEMS, overlap=OVERLAP)
    people = annotators(store, 20)
    receipts: list[Receipt] = []
    faults: list[BaseException] = []

    def work(person: int) -> None:
        rng = random.Random(person)
        try:
            while not isinstance(item := next_item(store, stage.id, person), Nothing):
                ballot = Ballot("best", rng.randrange(2))
                twice = threading.Thread(
                    target=lambda i=item.item_id, b=ballot: receipts.append(
                        submit(store, stage.id, person, i, b, f"{i}")
                    )
                )
                twice.start()
                receipts.append(submit(store, stage.id, person, item.item_id, ballot, f"{item.item_id}"))
                twice.join()
        except BaseException as fault:
            faults.append(fault)
            raise

    run_all([threading.Thread(target=work, args=(person,)) for person in people])
    assert faults == []
    votes = history(store, stage.id, limit=10_000)
    assert Counter(vote.item_id for vote in votes) == {item.id: OVERLAP for item in rows(store, tables.items)}
    assert len({(vote.item_id, vote.person_id) for vote in votes}) == ITEMS * OVERLAP
    assert len(receipts) == 2 * ITEMS * OVERLAP
    assert sum(receipt.repeated for receipt in receipts) == ITEMS * OVERLAP
    assert {receipt.vote_id for receipt in receipts} == {vote.id for vote in votes}
    assert get_stage(store, stage.id).done == ITEMS
    check_counters(store, stage)


def test_two_tabs_at_the_same_moment(store: Store) -> None:
    """Different keys for one item: exactly one of the tabs gets through, each time."""
    stage = a_stage(store, items=15, overlap=1)
    person = annotators(store, 1)[0]
    for _ in range(15):
        item = given(store, stage, person).item_id
        told: list[str] = []
        start = threading.Barrier(3)

        def press(
            key: str, item: int = item, start: threading.Barrier = start, told: list[str] = told
        ) -> None:
            start.wait()
            try:
                submit(store, stage.id, person, item, BEST, key)
                told.append("stored")
            except VoteConflictError:
                told.append("refused")

        run_all([threading.Thread(target=press, args=(f"{item}-{tab}",)) for tab in range(3)])
        assert sorted(told) == ["refused", "refused", "stored"]
    assert len(rows(store, tables.votes)) == 15


def test_one_place_and_twenty_people(store: Store) -> None:
    """All ask at the same moment for the only item: one gets it."""
    stage = a_stage(store, items=1, overlap=1)
    people = annotators(store, 20)
    start = threading.Barrier(20)
    found: list[object] = []

    def ask(person: int) -> None:
        start.wait()
        found.append(next_item(store, stage.id, person))

    run_all([threading.Thread(target=ask, args=(person,)) for person in people])
    assert sum(not isinstance(one, Nothing) for one in found) == 1
    check_counters(store, stage)


def test_processes_share_a_store(location: str) -> None:
    """Six processes with their own connections, each for some of the people, until nothing is left."""
    with Store(location) as store:
        stage = a_stage(store, items=30, overlap=OVERLAP)
        people = annotators(store, 12)
    code = """
        import json, sys
        from data.feedback.assignment import Nothing, next_item
        from data.feedback.ballots import Ballot
        from data.feedback.store import Store
        from data.feedback.votes import submit
        location, stage, people = json.loads(sys.argv[1])
        with Store(location) as store:
            told = []
            while people:
                for person in list(people):
                    item = next_item(store, stage, person)
                    if isinstance(item, Nothing):
                        if item.reason == "nothing_left":
                            people.remove(person)
                        continue
                    told.append(submit(store, stage, person, item.item_id, Ballot("tie"), item.key).vote_id)
        print(json.dumps(told))
    """
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(code)]
    workers = [
        subprocess.Popen(
            [*command, json.dumps([location, stage.id, people[n : n + 2]])],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        for n in range(0, 12, 2)
    ]
    told = [vote for worker in workers for vote in json.loads(worker.communicate(timeout=300)[0])]
    assert [worker.returncode for worker in workers] == [0] * 6
    with Store(location) as store:
        votes = history(store, stage.id, limit=10_000)
        check_counters(store, stage)
    assert sorted(told) == sorted(vote.id for vote in votes)
    assert Counter(Counter(vote.item_key for vote in votes).values()) == {OVERLAP: 30}


def run_all(threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
