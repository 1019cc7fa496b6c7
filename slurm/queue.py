"""What SLURM knows about jobs: from its queue, and for those that have left it from its accounts, if there are any."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from data.errors import RunError
from slurm.submit import ask

QUICK = 15.0
SEPARATOR = "\x1f"
FIELDS = ("JobArrayID", "State", "Reason", "NodeList", "RestartCnt", "Dependency")
ENDED = frozenset(
    {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "DEADLINE", "BOOT_FAIL",
     "REVOKED", "UNKNOWN"}
)  # fmt: skip
UNKNOWN = "UNKNOWN"
_REASONS = {
    "Dependency": "waits for the jobs before it",
    "JobHeldUser": "held; `heliograph release` frees it",
    "job requeued in held state": "held until people are done; then `heliograph release` frees it",
    "JobHeldAdmin": "held by an administrator",
    "Resources": "waits for free nodes",
    "Priority": "jobs of higher priority go first",
    "PartitionNodeLimit": "asks for more nodes than the partition gives: it will never start",
    "PartitionTimeLimit": "asks for more time than the partition gives: it will never start",
    "PartitionDown": "the partition is down",
    "ReqNodeNotAvail": "its nodes are down, drained or reserved",
    "BeginTime": "rests before it starts again",
    "DependencyNeverSatisfied": "a job before it failed: it will never start",
    "QOSMaxGRESPerUser": "your limit of GPUs is reached",
    "AssocGrpGRES": "your group's limit of GPUs is reached",
    "NonZeroExitCode": "it ended with an error",
    "TimeLimit": "its time was over",
    "launch failed requeued held": "held: its node could not start it: see the job's output, then `heliograph release`",
}


@dataclass(frozen=True)
class Seen:
    """A job, or a task of an array, as SLURM shows it."""

    id: str
    """`12`, or `12_3` for task 3 of array 12."""
    state: str
    reason: str = ""
    """SLURM's word; empty where it has none."""
    nodes: str = ""
    restarts: int = 0

    @property
    def alive(self) -> bool:
        return self.state not in ENDED

    @property
    def held(self) -> bool:
        return self.alive and "held" in self.reason.casefold()

    @property
    def told(self) -> str:
        """The reason in words."""
        words = _REASONS.get(self.reason.replace("_", " "))
        return f"{words} ({self.reason})" if words else self.reason


def look(ids: Iterable[str]) -> dict[str, Seen]:
    """Every job by its id; one that SLURM has forgotten is UNKNOWN. RunError when the controller cannot be asked."""
    wanted = list(dict.fromkeys(ids))
    found = _queue(wanted)
    missing = [number for number in wanted if number not in found]
    if missing:
        found |= _accounts(missing)
    return {number: found.get(number, Seen(number, UNKNOWN)) for number in wanted}


def _queue(wanted: list[str]) -> dict[str, Seen]:
    if not wanted:
        return {}
    form = ",".join(f"{name}:{SEPARATOR}" for name in FIELDS)
    words = [
        "squeue",
        "--noheader",
        "--states=all",
        "--array",
        f"--jobs={','.join(wanted)}",
        f"--Format={form}",
    ]
    try:
        answer = ask(words, QUICK)
    except RunError as fault:
        if "invalid job id" in fault.what.casefold():  # So it says when it knows none of them.
            return {}
        raise
    found: dict[str, Seen] = {}
    for line in answer.splitlines():
        number, state, reason, nodes, restarts, *_ = (part.strip() for part in line.split(SEPARATOR))
        found[number] = Seen(
            number, state, _word(reason), _word(nodes), int(restarts) if restarts.isdigit() else 0
        )
    return found


def _accounts(wanted: list[str]) -> dict[str, Seen]:
    """Nothing where accounting is switched off: that is a site's choice, and no fault."""
    words = ["sacct", "--noheader", "--parsable2", "--allocations", f"--jobs={','.join(wanted)}"]
    try:
        answer = ask([*words, "--format=JobID,State,NodeList"], QUICK)
    except RunError:
        return {}
    found: dict[str, Seen] = {}
    for line in answer.splitlines():
        number, state, nodes, *_ = (*line.split("|"), "", "")
        if number in wanted and state:  # "CANCELLED by 1000"; of a requeued job the last line counts.
            found[number] = Seen(number, state.split()[0], nodes=_word(nodes))
    return found


def _word(text: str) -> str:
    return "" if text in ("None", "(null)", "N/A", "None assigned") else text
