"""A structure as an equation: closed form that `decompile` reads, stable log-space text, and LaTeX."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from trainers.logic.expansion import Node, expand, fold
from trainers.logic.formula import prediction
from trainers.logic.structure import Structure

_SHORT = {"Winner": "w", "Loser": "l", "Ref.Winner": "rw", "Ref.Loser": "rl"}
_LATEX = {
    "Winner": r"\pi_\theta(y_w)",
    "Loser": r"\pi_\theta(y_l)",
    "Ref.Winner": r"\pi_{\mathrm{ref}}(y_w)",
    "Ref.Loser": r"\pi_{\mathrm{ref}}(y_l)",
}
_SUM, _PRODUCT, _FACTOR = range(3)


def short(name: str) -> str:
    """`w` for Winner, `rl'` for Ref.Loser'; other atoms keep their names."""
    bare = prediction(name)
    return _SHORT.get(bare, bare) + name[len(bare) :]


@dataclass(frozen=True)
class _Piece:
    text: str
    level: int

    def factor(self, opening: str, closing: str) -> str:
        return f"{opening}{self.text}{closing}" if self.level == _SUM else self.text


@dataclass(frozen=True)
class _Polynomials:
    """Probabilities instead of log-probs: a sum in log space is a product, logaddexp is a sum."""

    latex: bool

    def atom(self, name: str) -> _Piece:
        return _Piece(self._name(name), _FACTOR)

    def complement(self, name: str) -> _Piece:
        one = f"1-{self._name(name)}"
        return _Piece(rf"\left({one}\right)" if self.latex else f"({one})", _FACTOR)

    def add(self, parts: Sequence[_Piece]) -> _Piece:
        if not parts:
            return _Piece("1", _FACTOR)
        opening, closing, times = (r"\left(", r"\right)", r"\,") if self.latex else ("(", ")", "*")
        return _Piece(times.join(p.factor(opening, closing) for p in parts), _PRODUCT)

    def logaddexp(self, left: _Piece, right: _Piece) -> _Piece:
        return _Piece(f"{left.text} + {right.text}", _SUM)

    def _name(self, name: str) -> str:
        bare = prediction(name)
        if not self.latex:
            return short(name)
        plain = bare.replace("_", r"\_")
        return _LATEX.get(bare, rf"\mathrm{{{plain}}}") + name[len(bare) :]


class _LogSpace:
    def atom(self, name: str) -> _Piece:
        return _Piece(f"log {short(name)}", _FACTOR)

    def complement(self, name: str) -> _Piece:
        return _Piece(f"log(1-{short(name)})", _FACTOR)

    def add(self, parts: Sequence[_Piece]) -> _Piece:
        return _Piece(" + ".join(p.text for p in parts) or "0", _SUM if len(parts) > 1 else _FACTOR)

    def logaddexp(self, left: _Piece, right: _Piece) -> _Piece:
        return _Piece(f"logaddexp({left.text}, {right.text})", _FACTOR)


def closed_form(structure: Structure) -> str:
    """As in `log (w*(1-l)) / (l*(1-w))`."""
    expansion = expand(structure)
    top, bottom = (_side(node) for node in (expansion.top, expansion.bottom))
    return f"log {top}" if bottom == "1" else f"log {top} / {bottom}"


def _side(node: Node) -> str:
    piece = fold(node, _Polynomials(latex=False))
    return piece.text if piece.level == _FACTOR else f"({piece.text})"


def log_space(structure: Structure) -> str:
    """rho as it is computed, where log(1-p) stands for the stable log1mexp."""
    expansion = expand(structure)
    top, bottom = (fold(node, _LogSpace()) for node in (expansion.top, expansion.bottom))
    return top.text if bottom.text == "0" else f"{top.text} - {bottom.factor('(', ')')}"


def latex(structure: Structure) -> str:
    """rho as one logarithm; the answers' prompt is left out."""
    expansion = expand(structure)
    top, bottom = (fold(node, _Polynomials(latex=True)).text for node in (expansion.top, expansion.bottom))
    return rf"\rho = \log \frac{{{top}}}{{{bottom}}}"
