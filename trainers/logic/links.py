"""From rho to a loss: the four links, their derivatives, and what they say where rho is 0."""

from __future__ import annotations

import math
from typing import Literal, get_args

from trainers.logic.errors import UnknownLossError

Link = Literal["logistic", "squared", "hinge", "margin"]
LINKS: tuple[Link, ...] = get_args(Link)

# Where entailment orders the losses and not only rho: the squared link also punishes a rho that is too large.
MONOTONE: frozenset[Link] = frozenset({"logistic", "hinge", "margin"})

FORMS: dict[Link, str] = {
    "logistic": "-log sigmoid(beta * rho)",
    "squared": "(rho - 1/(2*beta))^2",
    "hinge": "max(0, beta - rho)",
    "margin": "max(0, -rho)",
}

LATEX: dict[Link, str] = {
    "logistic": r"-\log\sigma\left(\beta\,\rho\right)",
    "squared": r"\left(\rho - \tfrac{1}{2\beta}\right)^2",
    "hinge": r"\max\left(0,\ \beta - \rho\right)",
    "margin": r"\max\left(0,\ -\rho\right)",
}


def link_named(name: str) -> Link:
    for link in LINKS:
        if link == name.lower():
            return link
    raise UnknownLossError(f"no link is called {name!r}", way_out=f"the links are {', '.join(LINKS)}")


def value(link: Link, rho: float, beta: float) -> float:
    match link:
        case "logistic":
            # log1p(exp(z)) written literally overflows from z = 710 on.
            z = -beta * rho
            return max(z, 0.0) + math.log1p(math.exp(-abs(z)))
        case "squared":
            return (rho - 1 / (2 * beta)) ** 2
        case "hinge":
            return max(0.0, beta - rho)
        case "margin":
            return max(0.0, -rho)


def derivative(link: Link, rho: float, beta: float) -> float:
    """With respect to rho; 0 on the kinks of hinge and margin, as torch has it."""
    match link:
        case "logistic":
            z = beta * rho
            return -beta * (math.exp(-z) / (1 + math.exp(-z)) if z > 0 else 1 / (1 + math.exp(z)))
        case "squared":
            return 2 * (rho - 1 / (2 * beta))
        case "hinge":
            return -1.0 if rho < beta else 0.0
        case "margin":
            return -1.0 if rho < 0 else 0.0
