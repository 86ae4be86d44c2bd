"""Parameters of a model by what they are for: exact, and as the papers count them."""

from collections.abc import Mapping
from dataclasses import dataclass

from megatron_nmm.config.schema_model import ModelConfig
from megatron_nmm.models.accounting.tensors import tensors


@dataclass(frozen=True)
class Parameters:
    """Values by what they are for, frozen ones included."""

    decoder: int
    """Matrices of the decoder layers that a token of text takes; images too where they have none of their own. Of
    sparse experts ``top_k`` count; routers do not, so that a model whose experts are as wide as the MLP of a dense one
    has N of the dense one, as in P1."""
    idle_experts: int
    """Matrices of the sparse experts that a token leaves out."""
    routers: int
    """Routers of sparse experts."""
    visual_experts: int
    """Matrices, and norms of queries and keys, of the decoder layers that image tokens alone take."""
    embeddings: int
    """Input embedding and output layer; one table when they are tied."""
    special_embeddings: int
    """The table of the tokens that lay out images."""
    norms: int
    """RMSNorm gains: per decoder layer two and those of queries and keys, and the final one."""
    vision: int
    """The encoder with its patch stem, norms and biases; in early fusion the patch stem."""
    vision_matrices: int
    """The matrices of the encoder's layers alone, the part of ``vision`` that papers count."""
    connector: int
    by_part: Mapping[str, int]
    """The same values by the parts of ``optim.rates``, in the order of the forward pass."""

    @property
    def paper(self) -> int:
        """N as P1 counts it (Table 6): active matrices of encoder and decoder, and both embedding tables."""
        return self.vision_matrices + self.decoder + self.embeddings

    @property
    def paper_total(self) -> int:
        """The same with every sparse expert, active or not."""
        return self.paper + self.idle_experts

    @property
    def total(self) -> int:
        """Every value."""
        return sum(self.by_part.values())

    @property
    def active(self) -> int:
        """Values that one image and the text around it pass: of modality experts each token takes one, of sparse
        experts ``top_k``."""
        return self.total - self.visual_experts - self.idle_experts


def parameters(model: ModelConfig) -> Parameters:
    """Exact counts of ``model``."""
    kinds: dict[tuple[str, str], int] = {}
    parts: dict[str, int] = {}
    idle = 0
    for _, tensor, count in tensors(model):
        idle += tensor.idle(model)
        kinds[tensor.part, tensor.kind] = kinds.get((tensor.part, tensor.kind), 0) + count
        parts[tensor.part] = parts.get(tensor.part, 0) + count
    return Parameters(
        decoder=_sum(kinds, ("attention", "matrix"), ("ffn", "matrix")) - idle,
        idle_experts=idle,
        routers=parts.get("router", 0),
        visual_experts=parts.get("visual_attention", 0) + parts.get("visual_ffn", 0),
        embeddings=_sum(kinds, ("embeddings", "table"), ("output", "table")),
        special_embeddings=parts.get("special_embeddings", 0),
        norms=_sum(kinds, ("norms", "gain"), ("attention", "gain")),
        vision=parts["vision"],
        vision_matrices=_sum(kinds, ("vision", "matrix")),
        connector=parts.get("connector", 0),
        by_part=parts,
    )


def _sum(kinds: Mapping[tuple[str, str], int], *keys: tuple[str, str]) -> int:
    """The counts of some (part, kind)."""
    return sum(kinds.get(key, 0) for key in keys)
