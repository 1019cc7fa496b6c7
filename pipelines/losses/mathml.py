"""Closed forms as MathML, which browsers typeset without a library."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from trainers.logic.expansion import expand, fold
from trainers.logic.formula import is_reference, prediction
from trainers.logic.render import closed_form, short
from trainers.logic.structure import Structure

_OPEN, _CLOSE = '<mo stretchy="false">(</mo>', '<mo stretchy="false">)</mo>'
# U+2062 is the invisible multiplication sign, which screen readers speak.
_TIMES = '<mo>\u2062</mo><mspace width="0.12em"/>'


@dataclass(frozen=True)
class _Piece:
    markup: str
    is_sum: bool = False

    @property
    def factor(self) -> str:
        return f"<mrow>{_OPEN}{self.markup}{_CLOSE}</mrow>" if self.is_sum else self.markup


class _MathML:
    """Probabilities: a sum in log space is a product, logaddexp is a sum."""

    def atom(self, name: str) -> _Piece:
        bare = prediction(name)
        letters = short(bare)
        if is_reference(bare) and len(letters) == 2:
            markup = f"<msub><mi>{letters[0]}</mi><mi>{letters[1]}</mi></msub>"
        else:
            markup = f"<mi>{escape(letters)}</mi>"
        return _Piece(markup + "<mo>′</mo>" * (len(name) - len(bare)))

    def complement(self, name: str) -> _Piece:
        inner = f"<mn>1</mn><mo>−</mo>{self.atom(name).markup}"
        return _Piece(f"<mrow>{_OPEN}{inner}{_CLOSE}</mrow>")

    def add(self, parts: Sequence[_Piece]) -> _Piece:
        return _Piece(_TIMES.join(part.factor for part in parts) or "<mn>1</mn>")

    def logaddexp(self, left: _Piece, right: _Piece) -> _Piece:
        return _Piece(f"{left.markup}<mo>+</mo>{right.markup}", is_sum=True)


def rho(structure: Structure) -> str:
    """rho as one logarithm of a fraction; `alttext` is the closed form that `decompile` reads."""
    expansion = expand(structure)
    top, bottom = (fold(node, _MathML()).markup for node in (expansion.top, expansion.bottom))
    return (
        f'<math display="block" alttext="rho = {escape(closed_form(structure))}"><mi>ρ</mi><mo>=</mo>'
        '<mi>log</mi><mo>\u2061</mo><mspace width="0.2em"/>'
        f"<mfrac><mrow>{top}</mrow><mrow>{bottom}</mrow></mfrac></math>"
    )
