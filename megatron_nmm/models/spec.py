"""The decoder as a spec tree: one function for every variant, leaves chosen by tables, never by an ``if``."""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

from megatron_nmm.config import ModelConfig, RunConfig
from megatron_nmm.config.recipes import row_multiple
from megatron_nmm.config.schema_model import ModalityExperts
from megatron_nmm.device.protocol import Device
from megatron_nmm.models.attention.core import PackedAttention
from megatron_nmm.models.leaves import Leaves, layer_leaves
from megatron_nmm.models.planned import PlannedLayer


@dataclass(frozen=True)
class Branch:
    """A module of the residual stream with the linear layers it needs."""

    module: Any
    column: Any
    row: Any
    projection: Any = None
    """A row-parallel layer in which text and visual rows part; None = the module has none."""


@dataclass(frozen=True)
class Branches:
    """The two branches of a transformer layer."""

    attention: Branch
    mlp: Branch


def branches() -> dict[ModalityExperts, Branches]:
    """Which modules carry each kind of modality experts."""
    from megatron.core.tensor_parallel.layers import ColumnParallelLinear, RowParallelLinear
    from megatron.core.transformer.attention import SelfAttention
    from megatron.core.transformer.mlp import MLP

    from megatron_nmm.models.experts.attention import ModalityProjection, ModalitySelfAttention
    from megatron_nmm.models.experts.linear import LocalColumnParallelLinear, LocalRowParallelLinear
    from megatron_nmm.models.experts.mlp import ModalityMLP

    attention = Branch(SelfAttention, ColumnParallelLinear, RowParallelLinear)
    mlp = Branch(MLP, ColumnParallelLinear, RowParallelLinear)
    expert_attention = Branch(
        ModalitySelfAttention, LocalColumnParallelLinear, LocalRowParallelLinear, ModalityProjection
    )
    expert_mlp = Branch(ModalityMLP, LocalColumnParallelLinear, LocalRowParallelLinear)
    return {
        "none": Branches(attention, mlp),
        "ffn": Branches(attention, expert_mlp),
        "all": Branches(expert_attention, expert_mlp),
    }


NORMS_IN_LINEAR = {
    "self_attention.linear_qkv.layer_norm_": "input_layernorm.",
    "mlp.linear_fc1.layer_norm_": "pre_mlp_layernorm.",
}
"""Where a norm and a linear layer are one: its name there -> the norm's own, which checkpoints have in either case."""


def norm_and_column(leaves: Leaves, column: Any) -> tuple[Any, Any]:
    """What builds a norm, and the column-parallel layer behind it; the former does nothing where both are one."""
    from megatron.core.tensor_parallel.layers import ColumnParallelLinear
    from megatron.core.transformer.identity_op import IdentityOp

    # A layer behind rows that are parted by modality has its norm before them.
    if leaves.norm_and_column is not None and column is ColumnParallelLinear:
        return IdentityOp, leaves.norm_and_column
    return leaves.norm, leaves.linear(column)


def dense_mlp(model: ModelConfig, leaves: Leaves) -> tuple[Any, Any]:
    """What builds the norm before a layer's SwiGLU MLP, and the MLP: one for all tokens or one for each modality."""
    from megatron.core.transformer.mlp import MLPSubmodules

    mlp = branches()[model.modality_experts].mlp
    norm, column = norm_and_column(leaves, mlp.column)
    parts = MLPSubmodules(linear_fc1=column, linear_fc2=leaves.linear(mlp.row), activation_func=leaves.activation)
    return norm, partial(mlp.module.as_mlp_submodule, submodules=parts)


def sparse_mlp(run: RunConfig, leaves: Leaves) -> Any:
    """What builds a layer's sparse experts."""
    # Here, because nmm_kernels is needed by no other model.
    from megatron_nmm.models.sparse.mlp import SparseMLP

    return partial(
        SparseMLP,
        sparse=run.model.sparse,
        dispatcher=run.parallel.dispatcher,
        experts=leaves.experts,
        align=math.lcm(row_multiple(run.precision), leaves.expert_rows.get(run.precision.dtype, 1)),
    )


def decoder_layer(model: ModelConfig, leaves: Leaves, mlp_norm: Any, mlp: Any) -> Any:
    """ModuleSpec of one pre-norm transformer layer: packed attention with QK-norm, then what the last two build."""
    from megatron.core.fusions.fused_bias_dropout import get_bias_dropout_add
    from megatron.core.transformer.attention import SelfAttentionSubmodules
    from megatron.core.transformer.enums import AttnMaskType
    from megatron.core.transformer.spec_utils import ModuleSpec
    from megatron.core.transformer.transformer_layer import TransformerLayerSubmodules

    parts = branches()[model.modality_experts].attention
    head_norm = leaves.norm if model.qk_norm else None
    norm, column = norm_and_column(leaves, parts.column)
    settings: dict[str, Any] = {"attn_mask_type": AttnMaskType.causal}
    if parts.projection:
        settings["projection"] = leaves.linear(parts.projection)
    attention = SelfAttentionSubmodules(
        linear_qkv=column,
        core_attention=PackedAttention,
        linear_proj=leaves.linear(parts.row),
        q_layernorm=head_norm,
        k_layernorm=head_norm,
    )
    return ModuleSpec(
        module=PlannedLayer,
        submodules=TransformerLayerSubmodules(
            input_layernorm=norm,
            self_attention=ModuleSpec(module=parts.module, params=settings, submodules=attention),
            self_attn_bda=get_bias_dropout_add,
            pre_mlp_layernorm=mlp_norm,
            mlp=mlp,
            mlp_bda=get_bias_dropout_add,
            sharded_state_dict_keys_map=NORMS_IN_LINEAR if leaves.norm_and_column else {},
        ),
    )


def decoder_block(run: RunConfig, device: Device, layers: range) -> Any:
    """Submodules of a TransformerBlock of the decoder's ``layers`` (from 0) and a final norm."""
    from megatron.core.transformer.transformer_block import TransformerBlockSubmodules

    model, sparse = run.model, set(run.model.sparse_layers)
    specs, norm = [], layer_leaves(run.precision, device, 0, model.layers).norm
    for layer in layers:
        leaves = layer_leaves(run.precision, device, layer, model.layers)
        mlp = (leaves.norm, sparse_mlp(run, leaves)) if layer in sparse else dense_mlp(model, leaves)
        specs.append(decoder_layer(model, leaves, *mlp))
    return TransformerBlockSubmodules(layer_specs=specs, layer_norm=norm)
