"""One list of cases, shared by the tests of every implementation and by benchmarks/run.py.

A case is a shape, a dtype and a load, the way choices fall on experts; ``Case.inputs`` draws everything the operators
take from its seed, on the CPU so that every device sees the same numbers. Shapes: T tokens, K choices, E experts,
H width, R rows in expert order.
"""

from dataclasses import dataclass
from typing import Literal

import torch

from nmm_kernels.checks import wide
from nmm_kernels.dispatch_plan.reference import dispatch_plan
from nmm_kernels.dispatch_plan.rows import planned_rows

Load = Literal["random", "one expert", "half the experts", "dropped", "all dropped"]


@dataclass(frozen=True)
class Inputs:
    """What the operators take, consistent with one another."""

    logits: torch.Tensor
    """[T, E] in the case's dtype, without ties, so that every implementation ranks them alike."""
    bias: torch.Tensor
    """[E] fp32."""
    experts: torch.Tensor
    """[T, K] int32 as the case's load has it; -1 is dropped."""
    row_map: torch.Tensor
    """[T, K] int32."""
    rows: int
    """R."""
    x: torch.Tensor
    """[T, H], also a gradient of the combined tokens."""
    y: torch.Tensor
    """[R, H], also a gradient of the permuted rows."""
    probabilities: torch.Tensor
    """[T, K] fp32, or fp64 for fp64 rows."""
    order: torch.Tensor
    """[T] int64: a permutation, the first ``text`` of which are of one modality, in ascending order as are the rest."""
    home: torch.Tensor
    """[T] int64: the inverse of ``order``."""
    text: int


@dataclass(frozen=True)
class Case:
    """One shape and load; ``name`` is what tests and tables call it."""

    tokens: int
    width: int
    experts: int
    top_k: int
    dtype: torch.dtype = torch.bfloat16
    align: int = 1
    load: Load = "random"

    @property
    def name(self) -> str:
        """Such as T4096-H512-E8-K2-bfloat16."""
        text = f"T{self.tokens}-H{self.width}-E{self.experts}-K{self.top_k}-{str(self.dtype).removeprefix('torch.')}"
        text += f"-align{self.align}" if self.align > 1 else ""
        return text + (f"-{self.load.replace(' ', '_')}" if self.load != "random" else "")

    @property
    def rows(self) -> int:
        """R: room for any load."""
        return planned_rows(self.tokens * self.top_k, self.experts, self.align)

    def inputs(self, device: torch.device | str = "cpu", seed: int = 0) -> Inputs:
        """Draw the tensors of this case."""
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> torch.Tensor:
            return torch.randn(*shape, generator=generator).to(device, self.dtype)

        logits = self._logits(generator)
        experts = self._experts(generator)
        row_map, _, _ = dispatch_plan(experts, self.experts, self.align)
        text = self.tokens * 2 // 3
        shuffled = torch.randperm(self.tokens, generator=generator)
        order = torch.cat([shuffled[:text].sort().values, shuffled[text:].sort().values])
        probabilities = torch.rand(self.tokens, self.top_k, generator=generator).to(wide(self.dtype))
        return Inputs(
            logits=logits.to(device),
            bias=(torch.randn(self.experts, generator=generator) * 0.1).to(device),
            experts=experts.to(device),
            row_map=row_map.to(device),
            rows=self.rows,
            x=normal(self.tokens, self.width),
            y=normal(self.rows, self.width),
            probabilities=probabilities.to(device),
            order=order.to(device),
            home=order.argsort().to(device),
            text=text,
        )

    def _logits(self, generator: torch.Generator) -> torch.Tensor:
        """[T, E]: a token's values are distinct, which for up to 256 experts even 8 bits of mantissa can tell apart."""
        ranks = torch.rand(self.tokens, self.experts, generator=generator).argsort(-1)
        # Steps of 1/16 between -8 and 8 are exact in bf16.
        return (ranks / 16 - min(8, self.experts / 32)).to(self.dtype)

    def _experts(self, generator: torch.Generator) -> torch.Tensor:
        """[T, K] int32: K distinct experts a token, unless the load says otherwise."""
        best = torch.rand(self.tokens, self.experts, generator=generator).argsort(-1)[:, : self.top_k].int()
        if self.load == "one expert":
            return torch.full_like(best, self.experts - 1)
        if self.load == "half the experts":
            return best // 2 * 2
        if self.load == "dropped":
            return best.masked_fill(torch.rand(best.shape, generator=generator) < 0.3, -1)
        if self.load == "all dropped":
            return torch.full_like(best, -1)
        return best


_FLOATS = (torch.bfloat16, torch.float16, torch.float32)

CASES: tuple[Case, ...] = (
    *(Case(37, 64, 8, 2, dtype) for dtype in _FLOATS),
    *(Case(33, 130, 4, 3, dtype, align=16) for dtype in _FLOATS),  # K no power of two, H no multiple of 8
    *(Case(19, 7, 5, 1, dtype, align=128) for dtype in _FLOATS),  # a row shorter than one vector
    Case(257, 1031, 6, 5, align=16),  # more than one block of a row, with a tail
    Case(64, 256, 32, 8, align=128),  # many experts, some without a token
    Case(41, 96, 200, 7),  # more experts than tokens
    Case(50, 128, 8, 2, load="one expert", align=16),
    Case(50, 128, 8, 2, load="half the experts", align=16),
    Case(50, 136, 8, 3, load="dropped", align=16),
    Case(9, 128, 8, 2, load="all dropped", align=16),
    Case(0, 128, 8, 2, align=16),
    Case(0, 128, 8, 2),
    Case(1, 1, 1, 1),
    Case(3, 0, 4, 2),  # no width: nothing to move, nothing to fail on
    Case(600, 512, 8, 2, align=16),  # enough for several threads and blocks of threads
)
"""What every implementation must get right; milliseconds each on a CPU."""

FAR_WIDTH = 1 << 20
FAR_ROWS = (1 << 11) + 8
"""A matrix of this many rows of FAR_WIDTH elements: the last ones start beyond 2^31 elements, out of reach of int32."""

BENCHMARK_CASES: tuple[Case, ...] = (
    Case(4096, 512, 8, 1),
    Case(4096, 512, 8, 2),
    Case(4096, 2048, 8, 1),
    Case(4096, 4096, 8, 2, align=16),
    Case(4096, 7168, 256, 8, align=128),
)
"""What a layer meets: P1's sparse models (8 experts, top-1 and top-2) and the shapes published for larger ones."""
