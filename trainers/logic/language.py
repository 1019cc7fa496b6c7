"""Reads a formula from text, and points at the character where it cannot."""

from __future__ import annotations

import re

from trainers.logic import formula as f
from trainers.logic.formula import Formula
from trainers.logic.scanning import END, Reader, Token, check_length, scan

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
    r"(?:(?P<name>[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)?'*)|(?P<sign>"
    + "|".join(re.escape(s) for s in _SIGNS)
    + r"))",
    re.ASCII,
)
_BINARY = {"<->": f.IFF, "->": f.IMPLIES, "|": f.OR, "^": f.XOR, "&": f.AND}
_HINT = "write atoms (Winner, Loser, Ref.Winner, Ref.Loser) joined by ~ & ^ | -> <-> and parentheses"


def parse(text: str) -> Formula:
    """Precedence `~ & ^ | -> <->`; `->` groups to the right, `<->` does not chain."""
    check_length(text, "formula")
    return _Parser(text).whole()


def atoms_at(text: str) -> dict[str, int]:
    """Every atom that is written in the text, by its one name, and where it stands first."""
    found: dict[str, int] = {}
    for token in _tokens(text):
        if token.kind == "atom":
            found.setdefault(f.atom_name(token.text), token.position)
    return found


def _tokens(text: str) -> list[Token]:
    return scan(text, _TOKEN, _kind, "formula", _HINT)


def _kind(match: re.Match[str]) -> str:
    name = match["name"]
    if name in ("T", "F"):
        return "TRUE" if name == "T" else "FALSE"
    return _SYMBOL.get(match["sign"] if name is None else name.lower(), "atom")


class _Parser(Reader):
    def __init__(self, text: str) -> None:
        super().__init__(text, _tokens(text), "formula")

    def whole(self) -> Formula:
        result = self.climb(f.IFF)
        if self.token.kind != END:
            raise self.expected("a connective (& ^ | -> <->) or the end")
        return result

    def climb(self, level: int) -> Formula:
        """Everything from here on that binds at least as tightly as `level`."""
        left = self.prefix()
        while (tightness := _BINARY.get(self.token.kind, -1)) >= level:
            operator = self.token.kind
            self.index += 1
            if operator == "->":
                self.descend(self.token)
                left = f.Implies(left, self.climb(f.IMPLIES))
                self.depth -= 1
            elif operator == "<->":
                left = f.Iff(left, self.climb(f.IFF + 1))
                if self.token.kind == "<->":
                    raise self.expected("parentheses, because a chain of <-> can be read in two ways")
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
            self.descend(self.token)
            self.index += 1
            result: Formula = f.Not(self.prefix())
        elif token.kind == "(":
            self.descend(self.token)
            self.index += 1
            result = self.climb(f.IFF)
            if self.token.kind != ")":
                raise self.expected("a connective or ')'")
            self.index += 1
        else:
            raise self.expected("an atom, TRUE, FALSE, '~' or '('")
        self.depth -= 1
        return result
