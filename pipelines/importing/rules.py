"""What can become of a key of another project's file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Verdict = Literal["kept", "renamed", "changed", "default", "dropped", "by hand", "unknown"]
VERDICTS: dict[Verdict, str] = {
    "by hand": "something is left for you to do",
    "changed": "carried over, and its value or meaning differs",
    "default": "not in the file: the default there differs from ours, and is written out",
    "dropped": "not carried over",
    "unknown": "neither that project nor this one is known to have it; not carried over",
    "renamed": "the same under another name",
    "kept": "the same",
}
"""Worst first: in this order they are told."""
Method = Literal["sft", "dpo", "kto", "orpo", "cpo", "simpo", "ipo"]


@dataclass(frozen=True)
class Put:
    """Several of our keys out of one, with what differs."""

    values: Mapping[str, Any]
    why: str = ""


@dataclass(frozen=True)
class Drop:
    """Not carried over."""

    why: str


@dataclass(frozen=True)
class Hand:
    """Not carried over, and a person has to see to it before the recipe does the same."""

    why: str


@dataclass(frozen=True)
class Rule:
    """What becomes of one key."""

    to: str | None = None
    """Our key, `training.NAME` for one of TRL's; None: it is not carried over."""
    why: str = ""
    """What differs; empty: nothing does."""
    read: Callable[[Any], Any] | None = None
    """The value as ours, or a Put, Drop or Hand that says what becomes of this value."""
    hand: bool = False
    """Not carried over, and left to a person."""

    @property
    def doc(self) -> str:
        """Our side, for the table of the documentation."""
        if self.hand:
            return "**by hand**"
        return f"`{self.to}`" if self.to else "told by its value" if self.read else ""


@dataclass(frozen=True)
class Told:
    """One line of what the import reports."""

    key: str
    verdict: Verdict
    value: Any = None
    to: str | None = None
    why: str = ""


@dataclass(frozen=True)
class Default:
    """A default that differs from ours."""

    to: str
    value: Any
    why: str = ""
    unless: tuple[str, ...] = ()
    """Their keys that set it."""
    methods: tuple[Method, ...] = ()
    """Only for these; empty: for all."""
    adapters: bool = False
    """Only where an adapter is trained."""


@dataclass
class Data:
    """What a project's data keys became."""

    train: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    held_out: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    values: dict[str, Any] = field(default_factory=dict[str, Any])
    """Other keys of the stage that the data decide."""
    shapes: set[str] = field(default_factory=set[str])
    """Of the training rows, where the file tells them."""
    told: list[Told] = field(default_factory=list[Told])


@dataclass(frozen=True)
class Source:
    """Another project: how its files are recognised, and its tables."""

    name: str
    title: str
    signs: frozenset[str]
    """Keys that only its files have."""
    rules: Mapping[str, Rule]
    method: Callable[[Mapping[str, Any]], tuple[Method, str] | None]
    """The method and the key that tells it; None where no key does. A method that is not ours raises."""
    data: Callable[[Mapping[str, Any], Method], Data]
    data_keys: frozenset[str]
    """Keys that `data` reads."""
    defaults: tuple[Default, ...] = ()
    trl: bool = False
    """Its other keys are TRL's and transformers'."""
    data_doc: tuple[tuple[str, str, str], ...] = ()
    """Rows of the documentation for the data keys: theirs, ours, what differs."""


def same(*keys: str) -> dict[str, Rule]:
    return {key: Rule(key) for key in keys}


def into_training(*keys: str) -> dict[str, Rule]:
    return {key: Rule(f"training.{key}") for key in keys}


def dropped(why: str, *keys: str) -> dict[str, Rule]:
    return dict.fromkeys(keys, Rule(None, why))


def by_hand(why: str, *keys: str) -> dict[str, Rule]:
    return dict.fromkeys(keys, Rule(None, why, hand=True))
