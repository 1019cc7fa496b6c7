"""The process of people: reads what to do from standard input, and writes what they saw to standard output."""

from __future__ import annotations

import json
import sys

from benchmarks.labelling.measure import play
from data.feedback.web.guard import csrf_token

if __name__ == "__main__":
    json.dump(play(json.load(sys.stdin), csrf_token), sys.stdout)
