"""What a model has and its source has not: which parts may be new, and where their first weights come from.

Training goes in stages, and a later stage's model may have parts that an earlier one, or a language model, had not:
modality experts begin as copies of the text weights, sparse experts as copies of the MLP they take the place of, an
encoder and its kin stay as they were drawn. A part is new as
a whole or not at all: a source with some of its tensors is a source of another shape.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    """A part of a model that its source may lack."""

    pattern: str
    """How the names of its tensors begin."""
    what: str
    """The part in a message."""
    copies: str = ""
    """What its tensors begin as copies of; "" = they stay as drawn."""


ENCODER = r"vision_encoder\."
PARTS = (
    Part(r"decoder\.layers\.\d+\.self_attention\.visual\.", "attention weights of visual experts", "text weights"),
    Part(r"decoder\.layers\.\d+\.mlp\.visual\.", "MLPs of visual experts", "text weights"),
    Part(r"decoder\.layers\.\d+\.mlp\.experts\.", "sparse experts", "MLPs"),
    Part(r"decoder\.layers\.\d+\.mlp\.router\.", "routers"),
    Part(ENCODER, "vision encoder"),
    Part(r"patch_stem\.", "patch stem"),
    Part(r"special_embedding\.", "special embeddings"),
)


@dataclass(frozen=True)
class Growth:
    """How the tensors of a model are filled from a source that lacks some."""

    copies: Mapping[str, str]
    """Model's tensor -> tensor of the source that it becomes a copy of."""
    drawn: frozenset[str]
    """Model's tensors that stay as they are."""
    remarks: tuple[str, ...]
    """One line for each new part."""


def twin(name: str) -> str:
    """The weight that one of a visual or a sparse expert begins as a copy of."""
    return name.replace(".visual.", ".").replace(".mlp.experts.experts.", ".mlp.")


def twin_shape(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of ``twin(name)``: sparse experts stand one behind the other in a tensor, and each begins alike."""
    return shape[1:] if ".mlp.experts." in name else shape


def growth(wanted: Iterable[str], stored: Iterable[str], source: str, *, encoder_follows: bool = False) -> Growth:
    """Which of the ``wanted`` tensors are of a part that ``stored`` has nothing of; ``source`` names it in remarks.

    Tensors that lack although their part is there are left for the caller to miss. ``encoder_follows``: the encoder is
    filled from elsewhere afterwards, so there is nothing to remark.
    """
    wanted, stored = set(wanted), set(stored)
    copies: dict[str, str] = {}
    drawn: set[str] = set()
    remarks = []
    for part in PARTS:
        names = {name for name in wanted if re.match(part.pattern, name)}
        if not names or any(re.match(part.pattern, name) for name in stored):
            continue
        if part.copies:
            copies |= {name: twin(name) for name in names if twin(name) in stored}
            remarks.append(f"{source} has no {part.what}: they begin as {len(names)} copies of {part.copies}")
        else:
            drawn |= names
            if part.pattern == ENCODER and encoder_follows:
                continue
            remarks.append(f"{source} has no {part.what}: drawn at random")
    return Growth(copies, frozenset(drawn), tuple(remarks))
