"""The arguments of every operator for a case, and the bytes the call has to move: for tests and benchmarks alike."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from nmm_kernels.cases import Case, Inputs

EXACT = frozenset(
    {
        "dispatch_plan",
        "permute",
        "permute_to_fp8",
        "modality_gather",
        "modality_gather_backward",
        "modality_scatter",
        "modality_scatter_backward",
    }
)
"""Operators whose results agree bit by bit in every implementation; the others round sums in their own order."""


@dataclass(frozen=True)
class Call:
    """One operator with arguments; ``label`` tells variants of it apart."""

    operator: str
    label: str
    arguments: tuple[Any, ...]
    bytes: int
    """The least that memory has to move: every input read once, every output written once."""

    def run(self) -> Any:
        """Call torch.ops.nmm."""
        return getattr(torch.ops.nmm, self.operator)(*self.arguments)


def calls(case: Case, inputs: Inputs) -> Iterator[Call]:
    """Every operator, forward and backward, with what ``case.inputs`` drew."""
    yield from _routing(case, inputs)
    yield from _rows(case, inputs)
    yield from _modality(case, inputs)


def _routing(case: Case, inputs: Inputs) -> Iterator[Call]:
    arguments: tuple[Any, ...]
    scores = inputs.logits.nbytes
    choices = case.tokens * case.top_k
    for score in ("softmax", "sigmoid"):
        for normalise in (False, True):
            for bias in (None, inputs.bias):
                label = f"{score}{'-normalised' if normalise else ''}{'-biased' if bias is not None else ''}"
                arguments = (inputs.logits, case.top_k, score, normalise, bias)
                yield Call("route", label, arguments, scores + 8 * choices)
            # Any choice will do for the gradient: the one without bias.
            experts = torch.ops.nmm.route(inputs.logits, case.top_k)[1]
            arguments = (inputs.probabilities, inputs.logits, experts, score, normalise)
            yield Call("route_backward", label.removesuffix("-biased"), arguments, 2 * scores + 8 * choices)
    yield Call("dispatch_plan", "", (inputs.experts, case.experts, case.align), 8 * choices)


def _rows(case: Case, inputs: Inputs) -> Iterator[Call]:
    x, y, row_map, probabilities = inputs.x, inputs.y, inputs.row_map, inputs.probabilities
    row = case.width * x.element_size()
    kept = int((row_map >= 0).sum()) * row
    yield Call("permute", "", (x, row_map, inputs.rows), x.nbytes + y.nbytes)
    yield Call("permute_backward", "", (y, row_map), kept + x.nbytes)
    if case.dtype != torch.float64:
        eighth = inputs.rows * (case.width + 4 * -(-case.width // 128))
        yield Call("permute_to_fp8", "", (x, row_map, inputs.rows), x.nbytes + eighth)
    yield Call("combine", "weighted", (y, row_map, probabilities), kept + x.nbytes)
    yield Call("combine", "plain", (y, row_map, None), kept + x.nbytes)
    yield Call("combine_backward", "", (x, y, row_map, probabilities), x.nbytes + kept + y.nbytes)


def _modality(case: Case, inputs: Inputs) -> Iterator[Call]:
    x, text = inputs.x, inputs.text
    a, b = x[:text], x[text:]
    yield Call("modality_gather", "", (x, inputs.order[:text]), 2 * a.nbytes)
    yield Call("modality_gather_backward", "", (a, inputs.order[:text], case.tokens), a.nbytes + x.nbytes)
    yield Call("modality_scatter", "", (a, b, inputs.home), 2 * x.nbytes)
    yield Call("modality_scatter_backward", "", (x, inputs.home, text, case.tokens - text), 2 * x.nbytes)
