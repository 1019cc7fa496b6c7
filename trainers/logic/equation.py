"""Reads a loss equation such as `log (w*(1-l)) / (l*(1-w))` into two polynomials."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from trainers.logic.formula import atom_name
from trainers.logic.scanning import END, Reader, Token, check_length, scan


@dataclass(frozen=True, slots=True)
class Var:
    name: str


@dataclass(frozen=True, slots=True)
class Number:
    value: int  # 0 or 1


@dataclass(frozen=True, slots=True)
class Product:
    parts: tuple[Polynomial, ...]


@dataclass(frozen=True, slots=True)
class Terms:
    """Signed terms in the order written: (True, e) is + e."""

    parts: tuple[tuple[bool, Polynomial], ...]


Polynomial: TypeAlias = Var | Number | Product | Terms


class Ratio(NamedTuple):
    num: Polynomial
    den: Polynomial


_ONE = Number(1)
_TOKEN = re.compile(
    r"(?P<name>[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)?'*)|(?P<number>\d+(?:\.\d+)?)|(?P<sign>\*\*|[-+*/^()\[\]{}=·×⋅−])",
    re.ASCII,
)
_SAME = {"[": "(", "{": "(", "]": ")", "}": ")", "·": "*", "×": "*", "⋅": "*", "−": "-", "**": "^"}
_LOGS = ("log", "ln")


def read(text: str) -> Ratio:
    """Numerator and denominator of the ratio whose logarithm is rho; `log a - log b` is one as well."""
    check_length(text, "equation")
    return _Reader(text).whole()


def _kind(match: re.Match[str]) -> str:
    word = match[0]
    if match["name"]:
        return "log" if word.lower() in _LOGS else "name"
    return "number" if match["number"] else _SAME.get(word, word)


class _Reader(Reader):
    def __init__(self, text: str) -> None:
        hint = "write w, l, rw, rl, 1, + - * / and log"
        super().__init__(text, scan(text, _TOKEN, _kind, "equation", hint), "equation")

    def whole(self) -> Ratio:
        if self.token.text == "rho" and self.tokens[self.index + 1].kind == "=":
            self.index += 2
        ahead = self.tokens[self.index + 1] if self.token.kind in ("+", "-") else self.token
        result = self.logarithms() if ahead.kind == "log" else self.sum()
        if self.token.kind != END:
            raise self.expected("an operator or the end")
        return result

    def logarithms(self) -> Ratio:
        """`log a + log b - log c`: the logarithm reaches as far as products and quotients do."""
        result = Ratio(_ONE, _ONE)
        sign = self.take("+", "-")
        while True:
            if not self.take("log"):
                raise self.expected("'log', because the terms before are logarithms")
            inner = self.product()
            if sign and sign.kind == "-":
                inner = Ratio(inner.den, inner.num)
            result = _times(result, inner)
            sign = self.take("+", "-")
            if sign is None:
                return result

    def sum(self) -> Ratio:
        lead = self.take("+", "-")
        first = self.token
        head = self.product()
        if lead is None and self.token.kind not in ("+", "-"):
            return head
        parts = [(lead is None or lead.kind == "+", self.polynomial(head, first))]
        while sign := self.take("+", "-"):
            first = self.token
            parts.append((sign.kind == "+", self.polynomial(self.product(), first)))
        return Ratio(Terms(tuple(parts)), _ONE)

    def polynomial(self, ratio: Ratio, token: Token) -> Polynomial:
        if ratio.den != _ONE:
            raise self.refuse("a quotient inside a sum", token, "bring the sum over one denominator")
        return ratio.num

    def product(self) -> Ratio:
        result = self.factor()
        divided = False
        while True:
            if self.take("*"):
                result = _times(result, self.factor())
            elif self.take("/"):
                other = self.factor()
                result = _times(result, Ratio(other.den, other.num))
                divided = True
            elif self.token.kind in ("(", "name", "number"):
                if divided:
                    hint = "write the denominator in parentheses, as in w / (l*(1-w))"
                    raise self.refuse("it is not clear what is divided by", self.token, hint)
                result = _times(result, self.factor())
            else:
                return result

    def factor(self) -> Ratio:
        token = self.token
        base = self.atom()
        if self.take("^"):
            exponent = self.take("number")
            if exponent is None or exponent.text != "1":
                what = "a power: a probability may appear only once in a product"
                raise self.refuse(what, token, "use a copied atom for the second one, as in w*w'")
        return base

    def atom(self) -> Ratio:
        if number := self.take("number"):
            if number.text not in ("0", "1"):
                raise self.refuse(
                    "a coefficient other than 1", number, "only sums of products of w, 1-w, ... do"
                )
            return Ratio(Number(int(number.text)), _ONE)
        if name := self.take("name"):
            return Ratio(Var(atom_name(name.text)), _ONE)
        opening = self.take("(")
        if opening is None:
            raise self.expected("w, l, rw, rl, another atom, 1 or '('")
        self.descend(opening)
        inner = self.sum()
        if not self.take(")"):
            raise self.expected("an operator or ')'")
        self.depth -= 1
        return inner


def _times(left: Ratio, right: Ratio) -> Ratio:
    return Ratio(_product(left.num, right.num), _product(left.den, right.den))


def _product(left: Polynomial, right: Polynomial) -> Polynomial:
    parts = [
        p
        for side in (left, right)
        for p in (side.parts if isinstance(side, Product) else (side,))
        if p != _ONE
    ]
    return _ONE if not parts else parts[0] if len(parts) == 1 else Product(tuple(parts))
