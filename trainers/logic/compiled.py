"""A structure as a loss of log-probability tensors; the only room of the logic that needs torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from trainers.logic.algebras import look_up
from trainers.logic.expansion import Expansion, expand, fold, literals
from trainers.logic.formula import order
from trainers.logic.links import Link
from trainers.logic.measure import FLOOR, check_beta, check_floor
from trainers.logic.named import NamedLoss
from trainers.logic.structure import Structure

_LN2 = 0.6931471805599453


class _Log1mExp(torch.autograd.Function):
    """log(1 - exp(x)) for x <= -floor.

    Written with torch.where its gradient is NaN at 0 and -1e-9 in float32, because the branch not taken has an
    infinite derivative; here the derivative is taken at the clamped point, so it is at most 1/floor.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, floor: float) -> Tensor:
        x = x.clamp(max=-floor)
        ctx.save_for_backward(x)
        return torch.where(x > -_LN2, torch.log(-torch.expm1(x)), torch.log1p(-torch.exp(x)))

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grads: Any
    ) -> tuple[Tensor, None]:
        (x,) = cast("tuple[Tensor]", ctx.saved_tensors)
        return cast(Tensor, grads[0]) * (-1 / torch.expm1(-x)), None


def log1mexp(x: Tensor, floor: float = FLOOR) -> Tensor:
    return cast(Tensor, _Log1mExp.apply(x, floor))  # pyright: ignore[reportUnknownMemberType]


@dataclass
class ClampCount:
    """How many values of log(1-p) were computed, and how many of them at the floor.

    Kept on the device: reading it is the only synchronisation.
    """

    values: int = 0
    _clamped: Tensor | None = field(default=None, repr=False)

    def see(self, x: Tensor, floor: float) -> None:
        at_floor = (x.detach() > -floor).sum()
        self.values += x.numel()
        self._clamped = at_floor if self._clamped is None else self._clamped.to(x.device) + at_floor

    def take(self) -> tuple[Tensor, int] | None:
        """Those at the floor since the last call, and how many values there were; None where there was none."""
        found = None if self._clamped is None else (self._clamped, self.values)
        self.reset()
        return found

    @property
    def clamped(self) -> int:
        return 0 if self._clamped is None else int(self._clamped.item())

    def reset(self) -> None:
        self.values, self._clamped = 0, None


@dataclass(frozen=True)
class _Tensors:
    logps: Mapping[str, Tensor]
    floor: float
    clamps: ClampCount

    def atom(self, name: str) -> Tensor:
        return cast(Tensor, look_up(self.logps, name))

    def complement(self, name: str) -> Tensor:
        x = self.atom(name)
        self.clamps.see(x, self.floor)
        return log1mexp(x, self.floor)

    def add(self, parts: Sequence[Tensor]) -> Tensor:
        # Left to right, so that CPO and DPO are bit for bit the sums that a person would write.
        total = parts[0] if parts else next(iter(self.logps.values())).new_zeros(())
        for part in parts[1:]:
            total = total + part
        return total

    def signed(self, group: Sequence[tuple[int, str]]) -> Tensor:
        return self.add([self.atom(name) if sign > 0 else -self.atom(name) for sign, name in group])

    def logaddexp(self, left: Tensor, right: Tensor) -> Tensor:
        return torch.logaddexp(left, right)


@dataclass
class CompiledLoss:
    """One loss per example from the log-probs of each atom.

    `constant` names a model made by hand: its two atoms come from `offset`, which is subtracted from rho.
    """

    structure: Structure
    link: Link = "logistic"
    beta: float = 0.1
    scale: float = 1.0
    floor: float = FLOOR
    constant: str | None = None
    clamps: ClampCount = field(default_factory=ClampCount)

    def __post_init__(self) -> None:
        check_beta(self.beta)
        check_floor(self.floor)
        self._expansion = expand(self.structure)
        self._differences = _differences(self._expansion)

    @property
    def needs_length_normalisation(self) -> bool:
        return self._expansion.needs_length_normalisation

    @property
    def inputs(self) -> tuple[str, ...]:
        """The atoms whose log-probs must be given."""
        made = f"{self.constant}."
        return tuple(
            name for name in self.structure.atoms if self.constant is None or not name.startswith(made)
        )

    def rho(self, logps: Mapping[str, Tensor], offset: Tensor | float = 0.0) -> Tensor:
        """In float32 at least and outside autocast: in bf16 most margins between close answers are exactly 0."""
        some = cast(Tensor, look_up(logps, self.inputs[0]))
        with torch.autocast(device_type=some.device.type, enabled=False):
            exact = {name: _at_least_float32(x) for name, x in logps.items()}
            if self.constant is not None:
                gap = torch.as_tensor(offset, device=some.device, dtype=_at_least_float32(some).dtype)
                exact[f"{self.constant}.Winner"] = gap.clamp(max=0)
                exact[f"{self.constant}.Loser"] = (-gap).clamp(max=0)
            algebra = _Tensors(exact, self.floor, self.clamps)
            if self._differences:
                return algebra.add([algebra.signed(group) for group in self._differences])
            return fold(self._expansion.top, algebra) - fold(self._expansion.bottom, algebra)

    def loss_of(self, rho: Tensor) -> Tensor:
        """f(rho), scaled; one value per example."""
        with torch.autocast(device_type=rho.device.type, enabled=False):
            match self.link:
                case "logistic":
                    loss = -F.logsigmoid(self.beta * rho)
                case "squared":
                    loss = (rho - 1 / (2 * self.beta)).square()
                case "hinge":
                    loss = torch.relu(self.beta - rho)
                case "margin":
                    loss = torch.relu(-rho)
            return self.scale * loss

    def __call__(self, logps: Mapping[str, Tensor], offset: Tensor | float = 0.0) -> Tensor:
        return self.loss_of(self.rho(logps, offset))


def _differences(expansion: Expansion) -> tuple[tuple[tuple[int, str], ...], ...]:
    """The signed literals of a plain sum, those of the policy and of its reference side by side.

    Sums of a hundred tokens are near -300, where float32 has steps of 3e-5; policy and reference differ by little,
    so that one minus the other, taken first, loses nothing.
    """
    if expansion.needs_length_normalisation:
        return ()
    top, bottom = set(literals(expansion.top)), set(literals(expansion.bottom))
    groups: dict[str, list[tuple[int, str]]] = {}
    for name in order(top ^ bottom):  # the policy's come first; what is on both sides cancels
        groups.setdefault(name.removeprefix("Ref."), []).append((1 if name in top else -1, name))
    return tuple(tuple(group) for group in groups.values())


def compile_named(loss: NamedLoss, beta: float | None = None, floor: float = FLOOR) -> CompiledLoss:
    """A named loss with its link and scale, at its own beta unless another is given."""
    beta = loss.beta if beta is None else beta
    check_beta(beta)
    return CompiledLoss(loss.structure, loss.link, beta, loss.scale(beta), floor, loss.constant)


def _at_least_float32(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()
