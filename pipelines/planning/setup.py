"""How a stage trains, as far as its cost goes: what learns, in which numbers, through which head, on what device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pipelines.planning.layouts import Engine
from pipelines.planning.shapes import BYTES, Linear, Shape, adapted, int8_bytes, lora_parameters, nf4_bytes

FLOAT = 4
Device = Literal["cpu", "cuda"]
Quantised = Literal["nf4", "fp4", "int8"]


@dataclass(frozen=True)
class Setup:
    """A training step's fixed circumstances."""

    shape: Shape
    use_peft: bool = False
    rank: int = 16
    targets: str | tuple[str, ...] = "all-linear"
    dropout: bool = False
    dora: bool = False
    saved: tuple[str, ...] = ()
    """Layers trained in full beside the adapter."""
    below: int = 0
    """Parameters of the adapters that earlier stages left, which stay as they are."""
    dtype: str = "float32"
    autocast: bool = False
    quantised: Quantised | None = None
    nested: bool = False
    checkpointing: bool = False
    accumulation: int = 1
    engine: Engine = "padded"
    trl_head: bool = False
    """The head is TRL's: of supervised fine-tuning, and of an engine that is not ours."""
    answers_scored: bool = True
    copies: int = 0
    """Frozen copies of the model beside it."""
    distributions: bool = False
    """Whether the retain rows' whole distributions are compared with the start's."""
    device: Device = "cpu"

    @property
    def weight_bytes(self) -> int:
        return {"float32": 4, "float64": 8}.get(self.dtype, 2)

    @property
    def compute_bytes(self) -> int:
        """Of an activation."""
        return 2 if self.autocast else self.weight_bytes

    @property
    def adapted(self) -> tuple[Linear, ...]:
        return tuple(adapted(self.shape, self.targets)) if self.use_peft else ()

    @property
    def learns(self) -> int:
        """Parameters with a gradient and an optimiser state."""
        if not self.use_peft:
            return self.shape.parameters
        return self.adapter + self.saved_parameters

    @property
    def adapter(self) -> int:
        if not self.use_peft:
            return 0
        return lora_parameters(self.shape, self.rank, self.targets, dora=self.dora)

    @property
    def saved_parameters(self) -> int:
        """Of `lora_modules_to_save`: whole copies that are trained."""
        table = self.shape.vocab_size * self.shape.hidden_size
        of_block = {one.name: one.inputs * one.outputs for one in self.shape.linears()}
        sizes = {"embed_tokens": table, "lm_head": table}
        sizes |= {name: self.shape.num_hidden_layers * size for name, size in of_block.items()}
        return sum(sizes.get(name, 0) for name in self.saved)

    @property
    def learns_head(self) -> bool:
        """Whether the projection onto the vocabulary has a gradient of its own."""
        return not self.use_peft or "lm_head" in self.saved

    @property
    def weights(self) -> float:
        """Bytes of the model itself."""
        shape = self.shape
        if self.quantised is None:
            return float(self.weight_bytes * shape.parameters)
        packed = shape.num_hidden_layers * shape.block_linear_parameters
        plain = self.weight_bytes * (shape.parameters - packed)
        if self.quantised == "int8":
            outputs = shape.num_hidden_layers * sum(one.outputs for one in shape.linears())
            return float(plain + int8_bytes(packed, outputs))
        return float(plain + nf4_bytes(packed, nested=self.nested))

    @property
    def mapped(self) -> float:
        """Bytes of the file that was quantised. What is not quantised still lies in it, and so all that was read of it
        counts as the process's, though the system can take it back."""
        if self.quantised is None or self.device == "cuda":
            return 0.0
        packed = self.shape.num_hidden_layers * self.shape.block_linear_parameters
        return float(BYTES.get(self.shape.dtype, 4) * packed)
