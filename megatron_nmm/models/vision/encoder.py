"""The vision encoder: a bidirectional transformer over the patches of each view, and a connector to the decoder.

It is what P1 calls late fusion and NaViL's visual encoder V_{d,w} (section 3). A worker has views of its own: in
placement "data" every rank, in "tensor" every context rank, whose tensor ranks split the matrices. Shapes: P patches of
this worker's share, w encoder width, H decoder width, s side of the square of patches that becomes one token, t tensor
ranks.
"""

from typing import Any, cast

import torch
import torch.distributed as dist
from megatron.core.tensor_parallel.mappings import gather_from_sequence_parallel_region
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.transformer_block import TransformerBlock

from megatron_nmm.config import RunConfig
from megatron_nmm.config.recipes import row_multiple
from megatron_nmm.data.batch import Batch
from megatron_nmm.models.attention.core import AttentionPlan, chosen
from megatron_nmm.models.attention.layout import PackedLayout
from megatron_nmm.models.leaves import leaves
from megatron_nmm.models.patch_stem import PatchStem
from megatron_nmm.models.rows import take_rows
from megatron_nmm.models.vision.connector import connector
from megatron_nmm.models.vision.grid import rotation
from megatron_nmm.models.vision.placement import encoder_groups, placement
from megatron_nmm.models.vision.positions import PositionTable
from megatron_nmm.models.vision.share import Share, Shares, shares
from megatron_nmm.models.vision.spec import encoder_block
from megatron_nmm.models.vision.to_mcore import encoder_config
from megatron_nmm.parallel.gradients import sum_over_tensor_group
from megatron_nmm.parallel.world import World


class VisionEncoder(MegatronModule):
    """Patches of a batch -> the tokens that replace its image placeholders; stands on the first pipeline stage."""

    def __init__(self, run: RunConfig, config: Any, world: World) -> None:
        """``config`` is the decoder's TransformerConfig; it draws the connector's weights."""
        vision = run.model.vision
        placed = placement(run)
        own = encoder_config(vision, config, placed)
        super().__init__(own)
        self.vision, self.placed, self.world = vision, placed, world
        self.tp_group = world.groups.tp
        self._multiple = row_multiple(run.precision)
        self._precision = run.precision
        self.patch_stem = PatchStem(own, vision.patch_values)
        self.positions = PositionTable(own, vision) if vision.table_rows else None
        self.block = TransformerBlock(
            own,
            encoder_block(vision, own, leaves(run.precision, world.device)),
            post_layer_norm=vision.final_norm,
            pg_collection=encoder_groups(world, placed),
        )
        self.connector = connector(vision, config)
        self._share_weights()

    def _share_weights(self) -> None:
        """Mark, for the gradient reductions, weights that tensor ranks hold alike and use on rows of their own."""
        for name, p in self.named_parameters():
            if self.placed == "data":
                dist.broadcast(p.data, dist.get_global_rank(self.tp_group, 0), group=self.tp_group)
                # megatron-core marks its linear layers as split whatever their group is; a split weight would be
                # counted once per rank in the gradient norm.
                cast(Any, p).tensor_model_parallel = False
                sum_over_tensor_group(p)
            elif "q_layernorm" in name or "k_layernorm" in name:
                sum_over_tensor_group(p)
            elif name.startswith(("patch_stem.", "positions.", "connector.")):
                cast(Any, p).sequence_parallel = self.config.sequence_parallel

    def forward(self, batch: Batch) -> torch.Tensor:
        """[N image tokens, H], the same on every tensor and context rank, in the order of ``Batch.patch_targets``.

        Without images the padding view runs through all of it: every collective happens, every gradient is zero.
        """
        plan = self.shares(batch)
        mine = self._rows(plan.mine)
        hidden = self.patch_stem(self._patches(batch, plan.mine, mine))
        if self.positions is not None:
            hidden = self.positions(hidden, plan.mine, mine)
        hidden = self.block(hidden[:, None], attention_mask=None, packed_seq_params=self._attention(plan.mine))
        tokens = self._of_all_workers(self.connector(hidden.squeeze(1)), plan.tokens)
        return take_rows(tokens, torch.from_numpy(plan.home).to(tokens.device, non_blocking=True))

    def _of_all_workers(self, tokens: torch.Tensor, each: int) -> torch.Tensor:
        """This rank's tokens -> those of all workers, end to end, ``each`` of them filled up with zeros.

        Every tensor rank goes on with all tokens and has their whole gradient: it keeps its part of that. Context ranks
        go on with positions of their own: their gradients add up.
        """
        if self.config.sequence_parallel:
            tokens = gather_from_sequence_parallel_region(
                tokens, tensor_parallel_output_grad=False, group=self.tp_group
            )
        tokens = torch.nn.functional.pad(tokens, (0, 0, 0, each - len(tokens)))
        if self.placed == "data":
            tokens = gather_from_sequence_parallel_region(
                tokens, tensor_parallel_output_grad=False, group=self.tp_group
            )
        if self.world.parallel.context > 1:
            tokens = gather_from_sequence_parallel_region(
                tokens, tensor_parallel_output_grad=True, group=self.world.groups.cp
            )
        return tokens

    def shares(self, batch: Batch) -> Shares:
        """This worker's share of the views of ``batch``, and the way back; host work only."""
        parallel, world = self.world.parallel, self.world
        alone = self.placed == "data"
        return shares(
            [(rows, columns) for rows, columns in batch.grids.tolist()],
            self.vision,
            parallel.context * parallel.tensor if alone else parallel.context,
            world.context_rank * parallel.tensor + world.tensor_rank if alone else world.context_rank,
            parallel.tensor if self.config.sequence_parallel else 1,
            self._multiple,
        )

    def _rows(self, share: Share) -> slice:
        """Which of the P rows this rank holds between products."""
        ranks = self.world.parallel.tensor if self.config.sequence_parallel else 1
        length = share.length // ranks
        first = self.world.tensor_rank * length if ranks > 1 else 0
        return slice(first, first + length)

    def _patches(self, batch: Batch, share: Share, mine: slice) -> torch.Tensor:
        """[rows of ``mine``, C * p * p] the pixels this rank's stem reads; zeros where there is no patch."""
        index = torch.from_numpy(share.patches[mine])
        rows = batch.patches[index]
        if share.class_unit:
            rows[index < 0] = 0
        rows = torch.nn.functional.pad(rows, (0, 0, 0, mine.stop - mine.start - len(rows)))
        return rows.to(self.world.device.torch_device, non_blocking=True)

    def _attention(self, share: Share) -> AttentionPlan:
        """Views, and windows where layers use them, each bidirectional and alone."""
        device, vision = self.world.device.torch_device, self.vision
        backend = chosen(self._precision, self.world.device, whole_documents=True)
        prepare, turn = backend.prepare, None
        if vision.positions == "rotary":
            dtype = self.config.params_dtype
            turn = rotation(share.rows, share.columns, vision.head_width, vision.rope_base, device, dtype)
        return AttentionPlan(
            turn,
            prepare(PackedLayout.full(share.views), device),
            backend,
            windows=prepare(PackedLayout.full(share.windows), device) if vision.window else None,
        )

    def sharded_state_dict(
        self, prefix: str = "", sharded_offsets: Any = (), metadata: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """megatron-core's map of shards. In placement "data" its layers take themselves for the only tensor rank; the
        real rank says which copy is saved."""
        entries: dict[str, Any] = super().sharded_state_dict(prefix, sharded_offsets, metadata)
        if self.placed == "data":
            for entry in entries.values():
                first, _, last = entry.replica_id
                entry.replica_id = (first, self.world.tensor_rank, last)
        return entries
