"""Text cut into tokens that know their place, and where a reader stands among them."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from trainers.logic.errors import FormulaError, at

# Limits on hostile input: far above any loss, far below Python's recursion limit.
MAX_LENGTH = 4000
MAX_DEPTH = 32
END = "the end"


class Token(NamedTuple):
    kind: str
    text: str
    position: int


def check_length(text: str, kind: str) -> None:
    if len(text) > MAX_LENGTH:
        what = f"{'an' if kind[0] in 'aeiou' else 'a'} {kind} of {len(text)} characters is longer than {MAX_LENGTH}"
        raise FormulaError(what, where=kind, column=1)


def scan(
    text: str, pattern: re.Pattern[str], name: Callable[[re.Match[str]], str], kind: str, hint: str
) -> list[Token]:
    """Every token, called by `name`, and one for the end; what the pattern does not know is an error at its place."""
    found: list[Token] = []
    position = 0
    while True:
        while position < len(text) and text[position].isspace():
            position += 1
        if position == len(text):
            found.append(Token(END, "", position))
            return found
        match = pattern.match(text, position)
        if match is None:
            raise at(text, position, f"{text[position]!r} means nothing here", kind=kind, hint=hint)
        found.append(Token(name(match), match[0], position))
        position = match.end()


class Reader:
    """A place among the tokens of a text, how deep the reading is nested, and the errors it can raise."""

    def __init__(self, text: str, tokens: list[Token], kind: str) -> None:
        self.text = text
        self.tokens = tokens
        self.kind = kind
        self.index = 0
        self.depth = 0

    @property
    def token(self) -> Token:
        return self.tokens[self.index]

    def take(self, *kinds: str) -> Token | None:
        token = self.token
        if token.kind not in kinds:
            return None
        self.index += 1
        return token

    def descend(self, opening: Token) -> None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise self.refuse(f"nested more than {MAX_DEPTH} deep", opening)

    def refuse(self, what: str, token: Token, hint: str = "") -> FormulaError:
        return at(self.text, token.position, what, kind=self.kind, hint=hint)

    def expected(self, what: str) -> FormulaError:
        token = self.token
        found = END if token.kind == END else f"'{token.text}'"
        return self.refuse(f"expected {what}, found {found}", token)
