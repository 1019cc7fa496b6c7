"""One vote's content: its kind and choice, checked against the item before anything is stored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, cast, get_args

from data.errors import DataError

Kind = Literal["choose", "best", "rank", "tie", "skip", "flag", "edit"]
KINDS: tuple[str, ...] = get_args(Kind)
# A skip or a flag says nothing about the candidates: it takes no place among the votes an item is to have.
COUNTED = frozenset(("choose", "best", "rank", "tie", "edit"))
# Stored as a vote that supersedes the one it undoes; nobody sends it as a ballot.
RETRACT = "retract"
LONGEST_COMMENT = 10_000
LONGEST_EDIT = 200_000


class BallotError(DataError):
    """The vote does not fit the item, or the stage does not ask for it."""


@dataclass(frozen=True)
class Edit:
    """A better text that a person wrote."""

    text: str
    candidate: int | None = None
    """The candidate it betters; None: written afresh."""


@dataclass(frozen=True)
class Ballot:
    """What a person says of an item. Candidates are named by their index in the item, never by their place.

    choose: the indices that are accepted, none to all. best: the index of the best one, `strength` 1 to
    strength_max. rank: a rank for each candidate, 1 the best, equal numbers for ties, null for not ranked.
    tie, skip: nothing. flag: a comment. edit: nothing but the edit; any other kind may have one besides.
    """

    kind: Kind
    choice: int | Sequence[int | None] | None = None
    strength: int | None = None
    comment: str | None = None
    seconds: float | None = None
    edit: Edit | None = None


def storable(text: object, name: str, longest: int, where: str | None = None) -> str:
    """The text, if every database and file can hold it."""
    if not isinstance(text, str):
        raise BallotError(f"{name} is a {type(text).__name__}, not text", where=where, way_out="write text")
    if len(text) > longest:
        raise BallotError(
            f"{name} has {len(text)} characters", where=where, way_out=f"write at most {longest}"
        )
    if "\0" in text:
        raise BallotError(f"{name} holds a NUL character", where=where, way_out="remove it")
    if not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text):
        raise BallotError(
            f"{name} holds half of a surrogate pair", where=where, way_out="write whole characters"
        )
    return text


def check_ballot(
    ballot: Ballot, candidates: int, kinds: Sequence[str], strength_max: int, where: str | None = None
) -> Ballot:
    """The ballot in its one normal form; raises BallotError."""

    def wrong(what: str, way_out: str) -> BallotError:
        return BallotError(what, where=where, way_out=way_out)

    if ballot.kind not in kinds:
        raise wrong(f"no votes of kind {ballot.kind!r} here", f"this stage takes {', '.join(kinds)}")
    choice: int | list[int | None] | None = None
    given = ballot.choice
    strength = ballot.strength
    if ballot.kind == "choose":
        choice = cast("list[int | None]", sorted(_indices(given, candidates, wrong)))
    elif ballot.kind == "best":
        if not _whole(given) or not 0 <= cast("int", given) < candidates:
            raise wrong(f"the best one is {given!r}", f"give an index from 0 to {candidates - 1}")
        choice = cast("int", given)
        strength = 1 if strength is None else strength
        if not _whole(strength) or not 1 <= strength <= strength_max:
            raise wrong(f"strength {strength!r}", f"give 1 to {strength_max}; no preference is a tie")
    elif ballot.kind == "rank":
        choice = _ranks(given, candidates, wrong)
    elif given is not None:
        raise wrong(f"a {ballot.kind} has no choice", "leave choice out")
    if ballot.kind != "best" and strength is not None:
        raise wrong(f"a {ballot.kind} has no strength", "leave strength out")
    if ballot.kind == "flag" and not (ballot.comment or "").strip():
        raise wrong("a flag needs a comment", "say what is wrong with the item")
    if ballot.kind == "edit" and ballot.edit is None:
        raise wrong("an edit without a text", "give edit: {text, candidate}")
    if ballot.kind in ("skip", "flag") and ballot.edit is not None:
        raise wrong(f"a {ballot.kind} has no edit", "vote, or send kind edit")
    seconds = ballot.seconds
    if seconds is not None and not (_number(seconds) and 0 <= seconds < 1e9):
        raise wrong(f"seconds is {seconds!r}", "give how long it took, in seconds")
    comment = (
        None if ballot.comment is None else storable(ballot.comment, "the comment", LONGEST_COMMENT, where)
    )
    edit = ballot.edit
    if edit is not None:
        if edit.candidate is not None and (
            not _whole(edit.candidate) or not 0 <= edit.candidate < candidates
        ):
            raise wrong(
                f"the edit is of candidate {edit.candidate!r}", f"give 0 to {candidates - 1}, or null"
            )
        if not storable(edit.text, "the edit", LONGEST_EDIT, where).strip():
            raise wrong("an edit without a text", "write the better text")
    return Ballot(ballot.kind, choice, strength, comment or None, seconds, edit)


def _number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _indices(given: object, candidates: int, wrong: _Wrong) -> list[int]:
    listed = _list(given)
    if listed is None or not all(_whole(one) and 0 <= cast("int", one) < candidates for one in listed):
        raise wrong(f"the accepted ones are {given!r}", f"give a list of indices from 0 to {candidates - 1}")
    if len(set(listed)) < len(listed):
        raise wrong(f"the accepted ones are {given!r}", "name each once")
    return cast("list[int]", listed)


def _ranks(given: object, candidates: int, wrong: _Wrong) -> list[int | None]:
    """Ranks without gaps: 1, 2, 2, 3 rather than 1, 4, 4, 9."""
    listed = _list(given)
    if listed is None or len(listed) != candidates:
        raise wrong(f"the ranks are {given!r}", f"give {candidates} numbers, 1 for the best, or nulls")
    if not all(one is None or (_whole(one) and cast("int", one) >= 1) for one in listed):
        raise wrong(f"the ranks are {given!r}", "a rank is a whole number from 1, or null")
    ranks = cast("list[int | None]", listed)
    known = sorted({rank for rank in ranks if rank is not None})
    if sum(rank is not None for rank in ranks) < 2:
        raise wrong("fewer than two candidates are ranked", "rank two, or skip")
    return [None if rank is None else known.index(rank) + 1 for rank in ranks]


def _list(given: object) -> list[object] | None:
    return list(cast("Sequence[object]", given)) if isinstance(given, (list, tuple)) else None


class _Wrong(Protocol):
    """The type of a function that makes an error of (what, way_out)."""

    def __call__(self, what: str, way_out: str) -> BallotError: ...
