"""What one microbatch brings to one rank: the model's shape and the rows' as the tables of activations read them."""

from dataclasses import dataclass, fields

from megatron_nmm.config.recipes import facts
from megatron_nmm.config.schema import RunConfig
from megatron_nmm.models.accounting import Work, encoder_rows
from megatron_nmm.models.accounting.activations import Layer, Rows
from megatron_nmm.models.pipeline_plan import typical_row
from megatron_nmm.planner.place import Place


@dataclass(frozen=True)
class Load:
    """A microbatch on one context rank; ``Rows`` are read where attention keeps its probabilities."""

    work: Work
    decoder: Rows
    """Of the rank's positions."""
    encoder: Rows
    """Of the patches and class tokens that one rank encodes."""


def typical(run: RunConfig, place: Place) -> Load:
    """A microbatch of typical rows (models/pipeline_plan.py): one document each, images at P1's share."""
    row = typical_row(run)
    work = Work(**{field.name: place.rows * getattr(row, field.name) for field in fields(row)})
    return Load(work, Rows(work.tokens / place.context), Rows(encoder_rows(run.model, work) / place.encoder_workers))


def decoder_layer(run: RunConfig, place: Place, layer: int) -> Layer:
    """Decoder layer ``layer`` (from 0)."""
    model = run.model
    sparse = layer in model.sparse_layers
    return Layer(
        width=model.width,
        query=model.heads * model.head_width,
        key=model.kv_heads * model.head_width,
        heads=model.heads,
        groups=model.kv_heads,
        ffn=model.expert_width if sparse else model.ffn_width,
        gates=2,
        qk_norm=model.qk_norm,
        tensor=place.tensor,
        sequence=place.sequence,
        context=place.context,
        split_attention=model.modality_experts == "all",
        split_mlp=model.modality_experts != "none",
        experts=model.sparse.experts if sparse else 0,
        top_k=model.sparse.top_k if sparse else 0,
        local_experts=model.sparse.experts // place.expert if sparse else 0,
        eight_bits=_in_eight_bits(run, layer),
    )


def encoder_layer(run: RunConfig, place: Place) -> Layer:
    """A layer of the vision encoder."""
    vision = run.model.vision
    return Layer(
        width=vision.width,
        query=vision.width,
        key=vision.width,
        heads=vision.heads,
        groups=vision.heads,
        ffn=vision.ffn_width,
        gates=2 if vision.mlp == "swiglu" else 1,
        qk_norm=vision.qk_norm,
        tensor=place.encoder,
        sequence=min(place.sequence, place.encoder),
        centred=vision.norm == "layer",
        scaled=vision.layer_scale > 0,
        eight_bits=facts(run.precision) is not None,
    )


def _in_eight_bits(run: RunConfig, layer: int) -> bool:
    """Whether decoder layer ``layer`` runs by the run's recipe, if it has one."""
    precision = run.precision
    inside = precision.plain_first <= layer < run.model.layers - precision.plain_last
    return facts(precision) is not None and inside
