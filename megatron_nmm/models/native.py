"""The native multimodal model: patches and tokens in, one decoder, a next-token loss out.

The forward pass reads top to bottom; which parts exist on a rank depends on its pipeline stage. Shapes: B rows,
S packed length, T flat tokens of this rank (B * S over the context ranks), P patches, H hidden, V vocabulary, N
supervised tokens among them, t tensor ranks.
"""

from typing import Any, cast

import torch
from megatron.core.enums import ModelType
from megatron.core.models.common.embeddings.language_model_embedding import LanguageModelEmbedding
from megatron.core.models.common.language_module.language_module import LanguageModule
from megatron.core.tensor_parallel.layers import ColumnParallelLinear
from megatron.core.tensor_parallel.mappings import (
    gather_from_sequence_parallel_region,
    gather_from_tensor_model_parallel_region,
    scatter_to_sequence_parallel_region,
)
from megatron.core.transformer.transformer_block import TransformerBlock, get_num_layers_to_build
from megatron.core.transformer.transformer_layer import get_transformer_layer_offset

from megatron_nmm.config import RunConfig
from megatron_nmm.data.batch import Batch
from megatron_nmm.models.attention.cached import KeyValueCache
from megatron_nmm.models.attention.core import AttentionPlan
from megatron_nmm.models.attention.gathered import whole_sequence
from megatron_nmm.models.loss import token_losses
from megatron_nmm.models.patch_stem import PatchStem
from megatron_nmm.models.rows import take_rows
from megatron_nmm.models.spec import decoder_block
from megatron_nmm.models.special_embedding import SpecialEmbedding
from megatron_nmm.models.vision.encoder import VisionEncoder
from megatron_nmm.parallel.context import ContextShare
from megatron_nmm.parallel.world import World


class NativeMultimodalModel(LanguageModule):
    """One pipeline stage of the model on megatron-core's transformer block."""

    def __init__(self, run: RunConfig, config: Any, world: World, chunk: int = 0) -> None:
        """``config`` is the TransformerConfig of models/to_mcore.py; ``chunk`` counts this rank's virtual stages."""
        super().__init__(config, pg_collection=world.groups)
        self.model_type = ModelType.encoder_or_decoder  # the pipeline schedule asks for it
        self.run, self.world = run, world
        self.pre_process = world.is_first_stage and chunk == 0
        self.post_process = world.is_last_stage and chunk == run.parallel.virtual_stages - 1
        self.vp_stage = chunk if run.parallel.virtual_stages > 1 else None
        self.share_embeddings_and_output_weights = run.model.tie_embeddings
        if self.pre_process:
            if run.model.vision.depth:
                self.vision_encoder = VisionEncoder(run, config, world)
            else:
                self.patch_stem = PatchStem(config, run.model.vision.patch_values)
            if run.model.special_embeddings:
                self.special_embedding = SpecialEmbedding(config)
            self.embedding = LanguageModelEmbedding(
                config,
                vocab_size=run.model.vocabulary,
                max_sequence_length=run.data.sequence_length,
                position_embedding_type="none",
                # Patches are placed among whole rows first; the sequence is split afterwards.
                scatter_to_sequence_parallel=False,
                tp_group=world.groups.tp,
            )
        stage = {"vp_stage": self.vp_stage, "pp_rank": world.pipeline_rank}
        first = get_transformer_layer_offset(config, **stage)
        layers = range(first, first + get_num_layers_to_build(config, **stage))
        self.decoder = TransformerBlock(
            config,
            decoder_block(run, world.device, layers),
            pre_process=self.pre_process,
            post_process=self.post_process,
            vp_stage=self.vp_stage,
            pg_collection=world.groups,
        )
        if self.post_process:
            self.output_layer = self._output_layer(config)
        self.setup_embeddings_and_output_layer()

    def _output_layer(self, config: Any) -> Any:
        """[*, H] -> [*, V / t]. It is given gathered rows, so it must not gather the sequence again itself."""
        layer = ColumnParallelLinear(
            config.hidden_size,
            self.run.model.vocabulary,
            config=config,
            init_method=config.init_method,
            bias=False,
            gather_output=False,
            skip_weight_param_allocation=self.pre_process and self.share_embeddings_and_output_weights,
            disable_grad_reduce=config.sequence_parallel,
            tp_group=self.world.groups.tp,
        )
        layer.sequence_parallel = False
        return layer

    def set_input_tensor(self, input_tensor: Any) -> None:
        """Where the pipeline schedule leaves the previous stage's hidden states."""
        self.decoder.set_input_tensor(input_tensor[0] if isinstance(input_tensor, list) else input_tensor)

    def forward(
        self,
        batch: Batch,
        *,
        loss_scale: torch.Tensor | None = None,
        logits: bool = False,
        scores_at: torch.Tensor | None = None,
        cache: KeyValueCache | None = None,
    ) -> torch.Tensor:
        """Hidden states [T (/ t), 1, H] for the next stage; on the last stage the losses [N] of the supervised
        tokens in flat order, or with ``logits`` all scores [B, S, V], or those [n, V] of the n flat positions
        ``scores_at``. ``loss_scale``: SparsePlan's; ``cache``: AttentionPlan's."""
        share = ContextShare.of(batch, self.world)
        plan = AttentionPlan.of(batch, share, self.run, self.world, self.config.params_dtype, loss_scale, cache)
        hidden = self.embed(batch, share) if self.pre_process else None
        hidden = self.decoder(hidden, attention_mask=None, packed_seq_params=plan)
        if not self.post_process:
            return cast(torch.Tensor, hidden)
        if scores_at is not None:
            return self.logits(hidden, share, scores_at)
        if logits:
            return self.logits(hidden, share).view(batch.rows, batch.sequence_length, -1)
        return self.losses(hidden, batch, share)

    def embed(self, batch: Batch, share: ContextShare) -> torch.Tensor:
        """[T (/ t), 1, H]: every token's embedding, image placeholders replaced by what the image part makes."""
        device = self.world.device.torch_device
        tokens = share.take(batch.tokens)[None].to(device, non_blocking=True)
        hidden: torch.Tensor = self.embedding(tokens, position_ids=None)
        if self.run.model.special_embeddings:
            which, places = share.held(batch.special_positions)
            rows = self.special_embedding(_chosen(batch.special_rows, which).to(device, non_blocking=True))
            hidden = hidden.index_copy(0, places.to(device, non_blocking=True), rows[:, None])
        which, places = share.held(batch.patch_targets)
        hidden = hidden.index_copy(0, places.to(device, non_blocking=True), self._images(batch, which)[:, None])
        if self.config.sequence_parallel:
            hidden = scatter_to_sequence_parallel_region(hidden, group=self.tp_group)
        if self.run.parallel.recompute == "full" and torch.is_grad_enabled():
            # A recomputed layer's weights get gradients only if its input takes one; everything before may be frozen.
            hidden.requires_grad_()
        return hidden

    def _images(self, batch: Batch, which: torch.Tensor | None) -> torch.Tensor:
        """[n, H] the image tokens ``which`` [n] (None = all) of ``batch``.

        A rank without any still runs the image part, on zero rows: its gradient is zero, never missing.
        """
        device = self.world.device.torch_device
        if not self.run.model.vision.depth:
            stem: torch.Tensor = self.patch_stem(_chosen(batch.patches, which).to(device, non_blocking=True))
            return stem
        images: torch.Tensor = self.vision_encoder(batch)
        return images if which is None else take_rows(images, which.to(device, non_blocking=True))

    def _whole_rows(self, hidden: torch.Tensor) -> torch.Tensor:
        """[T, H] from the tensor ranks' shares of the sequence."""
        if self.config.sequence_parallel:
            hidden = gather_from_sequence_parallel_region(hidden, tensor_parallel_output_grad=True, group=self.tp_group)
        return hidden.squeeze(1)

    def _scores(self, rows: torch.Tensor) -> torch.Tensor:
        """[*, H] -> [*, V / t] with the tied or the own output weight."""
        weight = self.shared_embedding_or_output_weight() if self.share_embeddings_and_output_weights else None
        scores: torch.Tensor = self.output_layer(rows.unsqueeze(1), weight=weight)[0]
        return scores.squeeze(1)

    def losses(self, hidden: torch.Tensor, batch: Batch, share: ContextShare) -> torch.Tensor:
        """[N] fp32 cross entropy of the supervised tokens; only their rows meet the output layer."""
        device = self.world.device.torch_device
        supervised = share.supervised(batch)
        labels = share.take(batch.labels)[supervised].to(device, non_blocking=True)
        rows = take_rows(self._whole_rows(hidden), supervised.to(device, non_blocking=True))
        return token_losses(self._scores(rows), labels, self.tp_group)

    def logits(self, hidden: torch.Tensor, share: ContextShare, at: torch.Tensor | None = None) -> torch.Tensor:
        """[n, V] scores of the flat positions ``at`` (None = all), the same on every tensor and context rank."""
        rows = whole_sequence(self._whole_rows(hidden), share.to(hidden.device))
        if at is not None:
            rows = rows[at.to(rows.device, non_blocking=True)]
        scores: torch.Tensor = gather_from_tensor_model_parallel_region(self._scores(rows), group=self.tp_group)
        return scores


def _chosen(values: torch.Tensor, which: torch.Tensor | None) -> torch.Tensor:
    """The rows ``which`` of ``values``; None = all."""
    return values if which is None else values[which]
