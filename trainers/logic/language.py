"""Reads a formula from text, and points at the character where it cannot."""

from __future__ import annotations

import re
from typing import NamedTuple

from trainers.logic import formula as f
from trainers.logic.errors import FormulaError, at
from trainers.logic.formula import Formula

# Limits on hostile input: far above any loss, far below Python's recursion limit.
MAX_LENGTH = 4000
MAX_DEPTH = 32

_OPERATORS = {
    "~": ("~", "!", "¬", "∼", "not"),
    "&": ("&&", "&", "∧", "and"),
    "^": ("^", "⊕", "⊻", "xor"),
    "|": ("||", "|", "∨", "or"),
    "->": ("->", "=>", "→", "⇒", "⟶", "⟹", "implies"),
    "<->": ("<->", "<=>", "↔", "⇔", "⟷", "⟺", "iff"),
    "(": ("(",),
    ")": (")",),
    "TRUE": ("⊤", "true"),
    "FALSE": ("⊥", "false"),
}
_SYMBOL = {spelling: op for op, spellings in _OPERATORS.items() for spelling in spellings}
_SIGNS = sorted((s for s in _SYMBOL if not s.isalpha() or not s.isascii()), key=len, reverse=True)
_TOKEN = re.compile(
    r"\s*(?:(?P<name>[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)?'*)|(?P<sign>"
    + "|".join(re.escape(s) for s in _SIGNS)
    + r"))",
    re.ASCII,
)
_BINARY = {"<->": f.IFF, "->": f.IMPLIES, "|": f.OR, "^": f.XOR, "&": f.AND}
_END = "the end"


class _Token(NamedTuple):
    kind: str
    text: str
    position: int


def parse(text: str) -> Formula:
    """Precedence `~ & ^ | -> <->`; `->` groups to the right, `<->` does not chain."""
    if len(text) > MAX_LENGTH:
        raise FormulaError(
            f"a formula of {len(text)} characters is longer than {MAX_LENGTH}", where="formula", column=1
        )
    return _Parser(text).whole()


def atoms_at(text: str) -> dict[str, int]:
    """Every atom that is written in the text, by its one name, and where it stands first."""
    found: dict[str, int] = {}
    for token in _tokens(text):
        if token.kind == "atom":
            found.setdefault(f.atom_name(token.text), token.position)
    return found


def _tokens(text: str) -> list[_Token]:
    found: list[_Token] = []
    position = 0
    while True:
        while position < len(text) and text[position].isspace():
            position += 1
        if position == len(text):
            found.append(_Token(_END, "", position))
            return found
        match = _TOKEN.match(text, position)
        if match is None:
            raise at(text, position, f"{text[position]!r} means nothing here", kind="formula", hint=_HINT)
        name = match["name"]
        word = match["sign"] or name
        if name in ("T", "F"):
            kind = "TRUE" if name == "T" else "FALSE"
        else:
            kind = _SYMBOL.get(word if name is None else name.lower(), "atom")
        found.append(_Token(kind, word, position))
        position = match.end()


_HINT = "write atoms (Winner, Loser, Ref.Winner, Ref.Loser) joined by ~ & ^ | -> <-> and parentheses"


class _Parser:
    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = _tokens(text)
        self.index = 0
        self.depth = 0

    @property
    def token(self) -> _Token:
        return self.tokens[self.index]

    def error(self, expected: str) -> FormulaError:
        token = self.token
        found = _END if token.kind == _END else f"'{token.text}'"
        return at(self.text, token.position, f"expected {expected}, found {found}", kind="formula")

    def whole(self) -> Formula:
        result = self.climb(f.IFF)
        if self.token.kind != _END:
            raise self.error("a connective (& ^ | -> <->) or the end")
        return result

    def descend(self) -> None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            what = f"nested more than {MAX_DEPTH} deep"
            raise at(self.text, self.token.position, what, kind="formula")

    def climb(self, level: int) -> Formula:
        """Everything from here on that binds at least as tightly as `level`."""
        left = self.prefix()
        while (tightness := _BINARY.get(self.token.kind, -1)) >= level:
            operator = self.token.kind
            self.index += 1
            if operator == "->":
                self.descend()
                left = f.Implies(left, self.climb(f.IMPLIES))
                self.depth -= 1
            elif operator == "<->":
                left = f.Iff(left, self.climb(f.IFF + 1))
                if self.token.kind == "<->":
                    raise self.error("parentheses, because a chain of <-> can be read in two ways")
            else:
                left = self.chain(left, operator, tightness)
        return left

    def chain(self, first: Formula, operator: str, tightness: int) -> Formula:
        """`a & b & c` as one flat conjunction, so that a long chain makes no deep tree."""
        parts = [first, self.climb(tightness + 1)]
        while self.token.kind == operator:
            self.index += 1
            parts.append(self.climb(tightness + 1))
        build = {"&": f.conj, "|": f.disj, "^": f.xor}[operator]
        return build(*parts)

    def prefix(self) -> Formula:
        token = self.token
        if token.kind == "atom":
            self.index += 1
            return f.Atom(f.atom_name(token.text))
        if token.kind in ("TRUE", "FALSE"):
            self.index += 1
            return f.Const(token.kind == "TRUE")
        if token.kind == "~":
            self.descend()
            self.index += 1
            result: Formula = f.Not(self.prefix())
        elif token.kind == "(":
            self.descend()
            self.index += 1
            result = self.climb(f.IFF)
            if self.token.kind != ")":
                raise self.error("a connective or ')'")
            self.index += 1
        else:
            raise self.error("an atom, TRUE, FALSE, '~' or '('")
        self.depth -= 1
        return result
