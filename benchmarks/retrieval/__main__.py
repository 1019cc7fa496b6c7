"""Encoding and searching passages: against the libraries called plainly, or at scale.

    python -m benchmarks.retrieval [--smoke] [--json FILE]
    python -m benchmarks.retrieval --passages 1000000 [--json FILE] [--folder FOLDER]

Without `--passages`: ours and the library's way on the same texts, vectors, index files and model, in one process, the
two alternating and changing places, in process CPU time. Results are compared before a time is taken. It fails where
ours is slower in every round: where both call the same FAISS, a median is as often below 1 as above.
With it: a corpus of so many passages of about 100 words is written and searched, each way in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.retrieval import scale


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.retrieval", description=__doc__)
    parser.add_argument("--passages", type=int, help="a corpus of so many passages instead of the comparison")
    parser.add_argument("--dimension", type=int, default=384)
    parser.add_argument("--folder", type=Path, help="keep corpus and indexes here, and use what is there")
    parser.add_argument("--only", nargs="+", choices=list(scale.WAYS), default=list(scale.WAYS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--smoke", action="store_true", help="little of everything: does it run")
    parser.add_argument("--json", type=Path, help="write the figures here")
    asked = parser.parse_args()
    found: dict[str, Any]
    if asked.passages is None:
        from benchmarks.retrieval.against import compared

        found = compared(2 if asked.smoke else asked.rounds, 0.05 if asked.smoke else 1.0)
    elif asked.folder is not None:
        asked.folder.mkdir(parents=True, exist_ok=True)
        found = scale.measured(asked.passages, asked.dimension, asked.folder, asked.only)
    else:
        with tempfile.TemporaryDirectory() as folder:
            found = scale.measured(asked.passages, asked.dimension, Path(folder), asked.only)
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    slower = [name for name, figures in found.get("ways", {}).items() if figures["times_library"]["max"] < 1]
    if slower:
        sys.exit(f"slower than the library in every round: {', '.join(slower)}")


if __name__ == "__main__":
    main()
