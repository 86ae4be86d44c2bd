"""The core attention that megatron-core's SelfAttention calls: rotate queries and keys, then attend by the plan.

The plan travels as ``packed_seq_params``: megatron-core hands that object to every attention layer of the right
microbatch, also under pipelining and activation recompute, and takes its ``qkv_format`` "thd" as the sign that tokens
lie flat.
"""

from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch

from megatron_nmm.config import PrecisionConfig, RunConfig
from megatron_nmm.config.recipes import row_multiple
from megatron_nmm.data.batch import Batch
from megatron_nmm.device.protocol import AttentionBackend, Device
from megatron_nmm.models.attention import cached, flex, fused, per_document, per_piece
from megatron_nmm.models.attention.cached import CachedPass, KeyValueCache
from megatron_nmm.models.attention.gathered import whole_keys
from megatron_nmm.models.attention.layout import PackedLayout
from megatron_nmm.models.experts.routing import Routing
from megatron_nmm.models.rope import Rotation, rotate
from megatron_nmm.models.sparse.plan import SparsePlan
from megatron_nmm.parallel.context import WHOLE, ContextShare
from megatron_nmm.parallel.world import World
from megatron_nmm.precision.select import backend as layers_backend

BACKENDS: dict[AttentionBackend, ModuleType] = {"per_document": per_document, "flex": flex}
"""Each backend module has ``prepare(layout, device)`` and ``attend(q, k, v, prepared, scale)``."""
CUT_BACKENDS: dict[AttentionBackend, ModuleType] = {"per_document": per_piece, "flex": flex}
"""The same where ranks share the positions of a row: few queries meet all keys."""


def chosen(precision: PrecisionConfig, device: Device, *, whole_documents: bool, cut: bool = False) -> ModuleType:
    """What attends: Transformer Engine where layers are its own and it knows the mask, else what the device has.

    ``whole_documents``: no image blocks inside; ``cut``: ranks share the positions of a row.
    """
    engine = layers_backend(precision, device) == "transformer_engine" and precision.attention == "auto"
    # Its fused kernels have no fp32.
    if engine and whole_documents and not cut and precision.dtype == "bf16":
        return fused
    return (CUT_BACKENDS if cut else BACKENDS)[device.attention_backend]


@dataclass(frozen=True)
class AttentionPlan:
    """Everything a layer needs to know about one microbatch."""

    rotation: Rotation | None
    """None: positions are known from elsewhere."""
    prepared: Any
    backend: ModuleType
    """What made ``prepared`` and attends by it."""
    share: ContextShare = WHOLE
    """Whose positions of the rows are whose; the default is this rank's alone."""
    routing: Routing | None = None
    """Which rows are whose, for layers with modality experts; None where there is one modality only."""
    sparse: SparsePlan | None = None
    """Tokens as routers see them, for layers with sparse experts."""
    cached: CachedPass | None = None
    """What becomes of keys and values while text is generated; None = nothing is kept."""
    windows: Any = None
    """What ``prepared`` is, for layers that attend within windows (WindowAttention)."""
    qkv_format: str = "thd"
    cu_seqlens_q: None = None
    cu_seqlens_kv: None = None
    cu_seqlens_q_padded: None = None
    cu_seqlens_kv_padded: None = None
    """megatron-core reads these to rotate by itself; it is given no frequencies, so it never does."""

    @staticmethod
    def of(
        batch: Batch,
        share: ContextShare,
        run: RunConfig,
        world: World,
        dtype: torch.dtype,
        loss_scale: torch.Tensor | None = None,
        cache: KeyValueCache | None = None,
    ) -> "AttentionPlan":
        """Work the plan of this rank's ``share`` of ``batch`` out on the host; ``loss_scale`` as SparsePlan has it.

        With ``cache`` keys and values are kept there; a batch that does not begin at position 0 goes on behind them.
        """
        model, device = run.model, world.device.torch_device
        step = None if cache is None else CachedPass.of(cache, batch, device)
        causal, cut = model.image_mask == "causal", share.mine is not None
        backend = chosen(run.precision, world.device, whole_documents=causal, cut=cut)
        prepared: Any = step
        if step is None or step.visible is None:
            prepared = backend.prepare(PackedLayout.of(batch, model.image_mask, share.mine), device)
        else:
            backend = cached
        sparse = None
        if model.sparse_layers:
            sparse = SparsePlan.of(batch, model.sparse, device, loss_scale, _positions(share, batch, world))
        return AttentionPlan(
            Rotation.at(share.take(batch.positions), model.head_width, model.rope_base, device, dtype),
            prepared,
            backend,
            share.to(device),
            Routing.of(batch, device, share, row_multiple(run.precision)),
            sparse,
            step,
        )


def _positions(share: ContextShare, batch: Batch, world: World) -> torch.Tensor | slice:
    """Flat positions of ``batch`` that this rank's residual stream holds."""
    if share.mine is None:
        return world.sequence_share(batch.tokens.numel())
    return share.mine[world.sequence_share(len(share.mine))]


class PackedAttention(torch.nn.Module):
    """Scaled dot-product attention over packed documents; holds no parameters."""

    def __init__(self, config: Any, layer_number: int, softmax_scale: float | None = None, **_: Any) -> None:
        super().__init__()
        self.scale = softmax_scale or config.kv_channels**-0.5
        self.layer = layer_number

    def forward(
        self,
        query_THD: torch.Tensor,
        key_TGD: torch.Tensor,
        value_TGD: torch.Tensor,
        attention_mask: None,
        *,
        packed_seq_params: AttentionPlan,
        **_: Any,
    ) -> torch.Tensor:
        """[T, H, D], [T, G, D] twice -> [T, H * D] for this rank's heads."""
        plan = packed_seq_params
        query, key = query_THD, key_TGD
        if plan.rotation is not None:
            query, key = rotate(query, plan.rotation), rotate(key, plan.rotation)
        key, value = whole_keys(key, value_TGD, plan.share)
        if plan.cached is not None:
            key, value = plan.cached.keep(self.layer, key, value)
        out: torch.Tensor = plan.backend.attend(query, key, value, self.prepared(plan), self.scale)
        return out

    def prepared(self, plan: AttentionPlan) -> Any:
        """Who may attend to whom in this layer."""
        return plan.prepared


class WindowAttention(PackedAttention):
    """The same within the windows of the plan."""

    def prepared(self, plan: AttentionPlan) -> Any:
        """The windows in place of the documents."""
        return plan.windows
