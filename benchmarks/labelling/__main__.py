"""Twenty people at the label server at once: `python -m benchmarks.labelling`.

The server is a process of its own, reached over loopback HTTP by a process with one thread for each person. Two
rounds: `paced`, where each answers as soon as the page lets them (300 ms after the item came up), and `saturated`,
where nobody waits for anything. Then the votes in the store are compared with the receipts, one by one.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.labelling.measure import Setting, measure

RESULTS = Path(__file__).parent.parent / "results"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.labelling", description=__doc__)
    parser.add_argument("--people", type=int, default=20)
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--many-items", type=int, default=100_000, help="for the time of the next item alone")
    parser.add_argument("--seconds", type=float, default=30, help="of each round (default 30)")
    parser.add_argument("--database", help="an empty PostgreSQL database; SQLite if left out")
    parser.add_argument("--smoke", action="store_true", help="few people and items: seconds, for the tests")
    parser.add_argument("--json", type=Path, help="where the figures go (default: benchmarks/results)")
    given = parser.parse_args(arguments)

    from pipelines import provenance

    setting = Setting(given.people, given.items, given.many_items, given.seconds)
    if given.smoke:
        setting = Setting(people=4, items=300, many_items=2000, seconds=2)
    with tempfile.TemporaryDirectory() as folder:
        result = measure(setting, Path(folder), given.database, lambda line: print(line, flush=True))
    result |= {
        "cores": os.cpu_count(),
        "cpu": provenance.cpu_model(),
        "versions": provenance.versions(),
        "commit": provenance.commit(Path(__file__).parent),
    }
    name = "labelling-postgresql.json" if given.database else "labelling-sqlite.json"
    target = given.json or (None if given.smoke else RESULTS / name)
    if target is not None:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(result, indent=2) + "\n")
        print(f"written to {target}")
    for kind, one in result["rounds"].items():
        print(
            f"{kind}: {one['votes']} votes, {one['votes_per_second']:.0f} a second; submit and next: median "
            f"{one['milliseconds']['median']:.1f} ms, p95 {one['milliseconds']['p95']:.1f} ms, "
            f"most {one['milliseconds']['most']:.1f} ms; server {one['server_cpu_milliseconds']:.1f} ms of a core "
            f"each; {one['lost']} lost, {one['doubled']} doubled; load {one['load']:.1f}"
        )
    alone = result["next_item"]
    print(f"next item of {alone['items']}: median {alone['median']:.2f} ms, p95 {alone['p95']:.2f} ms")
    wrong = sum(one["lost"] + one["doubled"] + one["failed"] for one in result["rounds"].values())
    if wrong:
        print(f"{wrong} votes were lost, doubled or refused", file=sys.stderr)
    return int(wrong > 0)


if __name__ == "__main__":
    raise SystemExit(main())
