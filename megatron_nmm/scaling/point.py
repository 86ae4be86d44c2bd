"""One point of a scaling study: a model trained to a number of tokens with its learning rate cooled down."""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Literal, get_args

Family = Literal["early", "late", "sparse", "modality_ffn", "navil"]
"""How images come into the decoder, and what its MLPs are; the papers' names."""
FAMILIES: tuple[Family, ...] = get_args(Family)

AVERAGE = "avg"
"""P1's headline loss: the plain mean over the kinds of data."""


@dataclass(frozen=True)
class Point:
    """One line of a study's manifest."""

    run: str
    """Name of the run, unique in the study."""
    study: str
    family: Family
    size: str
    """Label of the model, such as "0.275b"."""
    mixture: str
    """Percent of captions, interleaved documents and text, such as "45-45-10"."""
    seed: int
    active: float
    """N of the laws: parameters a token meets, encoder and embeddings included."""
    total: float
    """All parameters; more than ``active`` with sparse or modality experts."""
    vision: float
    """Nv: parameters of the encoder and its connector; 0 in early fusion, whose patch stem counts as decoder."""
    tokens: float
    """D: text and image tokens of the decoder, padding excluded."""
    vision_tokens: float
    """Dv: image tokens among them."""
    flops: float
    """C: ``6 N D``, and with an encoder ``6 (Nv Dv + (N - Nv) D)`` (P1 section 2.1)."""
    counted_flops: float
    """What the run's matrix products really cost, forward and backward; 0 = not counted."""
    losses: Mapping[str, float]
    """Held-out cross entropy in nats by kind of data."""
    experts: int = 1
    """Sparse experts of a layer; 1 = dense."""
    top_k: int = 1
    seconds: float = 0.0
    """Wall time of its steps."""

    @property
    def text(self) -> float:
        """Nt: active parameters outside the encoder."""
        return self.active - self.vision

    def loss(self, kind: str = AVERAGE) -> float:
        """Held-out loss on ``kind``, or the mean over all kinds. Raises KeyError on a kind that was not measured."""
        return fmean(self.losses.values()) if kind == AVERAGE else self.losses[kind]


def study_flops(active: float, vision: float, tokens: float, vision_tokens: float) -> float:
    """P1's cost of a training run: ``6 N D`` early, ``6 (Nv Dv + Nt D)`` with an encoder of ``vision`` parameters."""
    return 6.0 * (vision * vision_tokens + (active - vision) * tokens)
