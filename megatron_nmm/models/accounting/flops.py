"""Floating-point operations of a training step: every matrix product, in the order of the forward pass.

One multiply-add counts as two operations, as torch's FlopCounterMode counts it. Norms, activations, RoPE and softmax
are left out: they stay below one percent. So are the sums behind a router's balance loss, and the interpolation of a
table of positions.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from megatron_nmm.config.schema import RatesConfig
from megatron_nmm.config.schema_model import ModelConfig
from megatron_nmm.models.accounting.parameters import parameters
from megatron_nmm.models.accounting.tensors import DECODER_LAYER, SPARSE, TENSORS, VISION_LAYER, VISUAL

IMAGE_SHARE = 0.544
"""Share of image tokens where it is not known: P1's Dv = 0.544 D, of its mixture 45-45-10."""


@dataclass(frozen=True)
class Work:
    """What a step processes, summed over its rows."""

    tokens: int
    """Decoder positions, padding included if it is computed."""
    attended_pairs: int
    """(query, key) pairs that attend, per head and decoder layer; see ``attended_pairs``."""
    logit_tokens: int
    """Positions whose logits are computed."""
    patches: int = 0
    """Image patches through the stem."""
    filled_tokens: int = 0
    """Decoder positions that are not padding: sparse experts take no other; read only for a model that has some."""
    visual_tokens: int = 0
    """Decoder positions that visual experts take; read only for a model that has some."""
    view_pairs: int = 0
    """(query, key) pairs of an encoder layer that sees whole views, per head; read only above depth 0."""
    window_pairs: int = 0
    """The same of an encoder layer that sees windows."""
    class_tokens: int = 0
    """Class tokens of views."""


@dataclass(frozen=True)
class Flops:
    """Floating-point operations of one training step, without recomputation."""

    by_term: dict[str, int]
    """Forward and backward operations of every kind of product; those of all layers together."""
    forward: int
    """Forward operations of all terms."""

    @property
    def total(self) -> int:
        """Forward and backward operations of all terms."""
        return sum(self.by_term.values())


@dataclass(frozen=True)
class _Product:
    """One product with a weight, or of two activations (attention), or a weight that costs nothing (``forward`` 0)."""

    name: str
    part: str | None
    """Whose weight it is; None = both factors are activations."""
    forward: int


Lane = Sequence[_Product]
"""Products of which each reads the one before it."""


def step_flops(model: ModelConfig, work: Work, rates: RatesConfig | None = None) -> Flops:
    """Operations of one step. Backward, a product costs as much again for the gradient of each factor that needs one:
    pixels never do, frozen parts (``rates`` 0) do not, and neither does what stands below the first trained weight."""
    rates = rates or RatesConfig()
    by_term: dict[str, int] = {}
    forward = 0
    needs_gradient = False  # whether the rows that reach the next lanes need one; pixels do not
    for lanes in _forward_pass(model, work):
        after = []
        for lane in lanes:
            needed = needs_gradient
            for product in lane:
                trained = product.part is not None and getattr(rates, product.part) > 0
                factors = 2 * needed if product.part is None else needed + trained
                needed = needed or trained
                forward += product.forward
                if product.forward:
                    cost = product.forward * (1 + factors)
                    by_term[product.name] = by_term.get(product.name, 0) + cost
            after.append(needed)
        needs_gradient = any(after)
    return Flops(by_term, forward)


def six_nd(model: ModelConfig, tokens: int, patches: int | None = None) -> int:
    """P1's estimate of a training run over ``tokens`` (section 2): C = 6 N D, and 6 (Nv Dv + N D) with an encoder.

    N are active matrices of the decoder and both embedding tables, Nv matrices of the encoder, D decoder tokens and
    Dv = ``patches`` through the encoder; None = ``IMAGE_SHARE`` of the tokens.
    """
    if patches is None:
        patches = round(IMAGE_SHARE * tokens) * model.vision.shuffle**2
    counted = parameters(model)
    return 6 * (counted.vision_matrices * patches + (counted.decoder + counted.embeddings) * tokens)


def _forward_pass(model: ModelConfig, work: Work) -> Iterator[Sequence[Lane]]:
    """Groups of lanes side by side: all lanes of a group read what the group before it wrote."""
    images = _encoder(model, work) if model.vision.depth else [_weight("patch_stem", model, work.patches)]
    tables = [[_Product("", "embeddings", 0)], [_Product("", "special_embeddings", 0)] * model.special_embeddings]
    yield [images, *tables]
    sparse = frozenset(model.sparse_layers)
    for layer in range(model.layers):
        yield from _attention(model, work)
        yield [[_Product("", "norms", 0)]]
        yield _experts(model, work) if layer in sparse else _by_modality(model, work, "linear_fc1", "linear_fc2")
    yield [[_Product("", "norms", 0)]]
    part = "embeddings" if model.tie_embeddings else "output"
    yield [[_Product("output_layer", part, 2 * work.logit_tokens * model.vocabulary * model.width)]]


def _encoder(model: ModelConfig, work: Work) -> list[_Product]:
    """Stem, layers and connector, one after the other."""
    vision, rows = model.vision, encoder_rows(model, work)
    lane = [_weight("vision.patch_stem", model, rows)]
    for layer in range(vision.depth):
        whole = not vision.window or layer in vision.full_layers
        pairs = work.view_pairs if whole else work.window_pairs
        attention = 2 * pairs * vision.heads * vision.head_width
        products = {
            name: _weight(f"vision.{name}", model, rows)
            for name, tensor in VISION_LAYER.items()
            if tensor.kind == "matrix"
        }
        lane += [
            products.pop("linear_qkv"),
            _Product("vision.attention_scores", None, attention),
            _Product("vision.attention_values", None, attention),
            *products.values(),
        ]
    tokens = rows // vision.shuffle**2
    lane.append(_weight("connector.fc1", model, tokens))
    if vision.connector != "linear":
        lane.append(_weight("connector.fc2", model, tokens))
    return lane


def encoder_rows(model: ModelConfig, work: Work) -> int:
    """Rows of the encoder: patches, and the unit of each class token (models/vision/share.py)."""
    return work.patches + model.vision.class_unit * work.class_tokens


def _attention(model: ModelConfig, work: Work) -> Iterator[Sequence[Lane]]:
    """Norm, projections, joint attention, projections; each modality in a lane of its own."""
    attention = 2 * work.attended_pairs * model.heads * model.head_width
    yield [[_Product("", "norms", 0)]]
    yield _by_modality(model, work, "linear_qkv")
    yield [
        [
            _Product("attention_scores", None, attention),
            _Product("attention_values", None, attention),
        ]
    ]
    yield _by_modality(model, work, "linear_proj")


def _experts(model: ModelConfig, work: Work) -> list[Lane]:
    """The router scores every position; its scores weigh what ``top_k`` experts make of each that is not padding."""
    rows = work.filled_tokens * model.sparse.top_k
    experts = [_weight("experts.linear_fc1", model, rows), _weight("experts.linear_fc2", model, rows)]
    return [[_weight("router", model, work.tokens)], experts]


def _by_modality(model: ModelConfig, work: Work, *names: str) -> list[Lane]:
    """All rows through the text's matrices, or text rows through them and image rows through their twins."""
    experts = VISUAL[f"visual.{names[0]}"].copies(model) > 0
    text = work.tokens - work.visual_tokens if experts else work.tokens
    lanes: list[Lane] = [[_weight(name, model, text) for name in names]]
    if experts:
        lanes.append([_weight(f"visual.{name}", model, work.visual_tokens) for name in names])
    return lanes


def _weight(name: str, model: ModelConfig, rows: int) -> _Product:
    """``rows`` through one matrix of one layer, or of experts that share them."""
    tensor = TENSORS[name]
    return _Product(name, tensor.part, 2 * rows * tensor.values(model))


def decoder_terms() -> frozenset[str]:
    """Names of the terms that decoder layers make up."""
    return frozenset({*DECODER_LAYER, *SPARSE, *VISUAL, "attention_scores", "attention_values"})
