"""From what a person writes, a name in any spelling or a formula, to the structure that is meant."""

from __future__ import annotations

import difflib
import re
from functools import lru_cache

from trainers.logic.errors import UnknownLossError
from trainers.logic.formula import atom_name
from trainers.logic.named import NamedLoss, registry
from trainers.logic.structure import Structure, from_core

_LONE_WORD = re.compile(r"[A-Za-z]\w*(-\w+)*", re.ASCII)


def _plain(name: str) -> str:
    return re.sub(r"[-_\s]", "", name).lower()


@lru_cache(maxsize=1)
def _spellings() -> dict[str, str]:
    return {_plain(s): loss.name for loss in registry().values() for s in (loss.name, *loss.aliases)}


def find(name: str) -> NamedLoss | None:
    """By any spelling and in any case: `ref-CPO`, `dpo` and `DPO` are one loss."""
    key = _spellings().get(_plain(name))
    return registry()[key] if key else None


def named(name: str) -> NamedLoss:
    found = find(name)
    if found is None:
        raise unknown(name)
    return found


def default_beta(source: str) -> float:
    """The beta of a named loss; 1 for a formula."""
    loss = find(source)
    return 1.0 if loss is None else loss.beta


def unknown(name: str) -> UnknownLossError:
    spellings = _spellings()
    close = difflib.get_close_matches(_plain(name), spellings, n=3, cutoff=0.5)
    near = list(dict.fromkeys(spellings[c] for c in close))
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    return UnknownLossError(
        f"no loss is called {name!r}",
        way_out=f"{hint}`heliograph loss list` shows all names; or write a formula",
    )


def is_word(source: str) -> bool:
    """A lone word is a misspelt name far more often than a formula of one unknown atom."""
    words = source.strip()
    known = atom_name(words) in ("Winner", "Loser", "Ref.Winner", "Ref.Loser")
    return (
        bool(_LONE_WORD.fullmatch(words)) and not known and words.lower() not in ("t", "f", "true", "false")
    )


def resolve(
    source: str, given: str | None = None, also: str | None = None
) -> tuple[Structure, NamedLoss | None]:
    """A name or a formula as written by a person; `given` and `also` only go with a formula."""
    words = source.strip()
    loss = find(words)
    if loss is not None:
        if given is None and also is None:
            return loss.structure, loss
        raise UnknownLossError(
            f"{loss.name} brings its own conditions, so `given` and `also` cannot be set",
            way_out="write its formula instead, as `show` prints it",
        )
    if is_word(words):
        raise unknown(words)
    return from_core(words, given or "TRUE", also or "FALSE"), None
