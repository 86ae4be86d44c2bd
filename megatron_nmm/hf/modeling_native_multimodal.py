"""The native multimodal model for transformers: patches and tokens in, one decoder, scores of the next token out.

One class for early fusion, late fusion, sparse experts and modality experts (NaViL); what it consists of stands in its
configuration. Shapes: B rows, S new tokens, K all tokens, P patches, I views of images, H width, V vocabulary, C
channels, p patch side.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import DynamicCache, GenerationMixin, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.utils import can_return_tuple

from .attention import Modalities, rotation
from .configuration_native_multimodal import SPECIAL_TABLE, NativeMultimodalConfig
from .decoder import DecoderLayer
from .experts import Router
from .inputs import images_of_rows, positions, require_known, token_mask
from .masks import added, decoder_mask, image_blocks
from .views import grids_of
from .vision import Connector, VisionEncoder, VisionLayer


class NativeMultimodalPreTrainedModel(PreTrainedModel):
    """What both classes share: names, abilities, first weights."""

    config_class = NativeMultimodalConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _no_split_modules: ClassVar[list[str]] = ["DecoderLayer", "VisionLayer"]
    _skip_keys_device_placement: ClassVar[list[str]] = ["past_key_values"]
    _supports_sdpa = True
    _keep_in_fp32_modules_strict: ClassVar[list[str]] = ["e_score_correction_bias"]

    def _init_weights(self, module: nn.Module) -> None:
        """Normal matrices, norms of one, and what transformers does not know: routers, LayerScale, places."""
        super()._init_weights(module)
        if isinstance(module, Router):
            init.normal_(module.weight, mean=0.0, std=self.config.initializer_range)
            if module.e_score_correction_bias is not None:
                init.zeros_(module.e_score_correction_bias)
        elif isinstance(module, VisionLayer) and module.layer_scale:
            init.constant_(module.ls1, module.layer_scale)
            init.constant_(module.ls2, module.layer_scale)
        elif isinstance(module, VisionEncoder):
            for weight in module.parameters(recurse=False):
                init.normal_(weight, mean=0.0, std=self.config.initializer_range)


@dataclass(frozen=True)
class _Step:
    """What all decoder layers need to know of one forward pass."""

    turn: Any
    mask: Any
    modalities: Modalities | None


class NativeMultimodalModel(NativeMultimodalPreTrainedModel):
    """The model up to its last norm."""

    def __init__(self, config: NativeMultimodalConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        if config.special_embeddings:
            self.special_embedding = nn.Embedding(SPECIAL_TABLE, config.hidden_size)
        if config.vision_config is None:
            self.patch_stem = nn.Linear(config.patch_values, config.hidden_size)
        else:
            self.vision = VisionEncoder(config.vision_config, config.patch_values)
            self.connector = Connector(config)
        self.layers = nn.ModuleList(DecoderLayer(config, number) for number in range(config.num_hidden_layers))
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.gradient_checkpointing = False
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        image_grid_hw: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: torch.Tensor | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        **_: Any,
    ) -> BaseModelOutputWithPast:
        """Scores' inputs [B, S, H] of new tokens ``input_ids`` [B, S], or of text alone ``inputs_embeds`` [B, S, H].

        pixel_values [P, C * p * p] and image_grid_hw [I, 2] are the processor's, for the placeholders in ``input_ids``
        in order; attention_mask [B, K]: 1 on tokens, 0 on padding, wherever it stands. ValueError when these do not
        fit each other.
        """
        require_known(input_ids, inputs_embeds, pixel_values, image_grid_hw, past_key_values)
        config = self.config
        if use_cache is None:
            use_cache = config.use_cache
        if self.gradient_checkpointing and self.training:
            use_cache, past_key_values = False, None
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=config)
        x: Any = inputs_embeds
        if input_ids is not None:
            x = self.embed(input_ids, pixel_values, image_grid_hw)
        seen = 0 if past_key_values is None else int(past_key_values.get_seq_length())
        step = self._step(x, input_ids, image_grid_hw, attention_mask, position_ids, seen)
        states: list[torch.Tensor] | None = [] if _wanted(output_hidden_states, config.output_hidden_states) else None
        all_weights: list[torch.Tensor | None] | None = (
            [] if _wanted(output_attentions, config.output_attentions) else None
        )
        for layer in self.layers:
            if states is not None:
                states.append(x)
            x, weights = layer(x, step.turn, step.mask, step.modalities, past_key_values)
            if all_weights is not None:
                all_weights.append(weights)
        x = self.norm(x)
        return BaseModelOutputWithPast(
            last_hidden_state=x,
            past_key_values=past_key_values if use_cache else None,
            hidden_states=None if states is None else (*states, x),
            attentions=None if all_weights is None else tuple(all_weights),
        )

    def embed(
        self, input_ids: torch.Tensor, pixel_values: torch.Tensor | None, image_grid_hw: torch.Tensor | None
    ) -> torch.Tensor:
        """[B, S, H]: every token's embedding, image placeholders replaced by what the image part makes."""
        x: torch.Tensor = self.embed_tokens(input_ids)
        if self.config.special_embeddings:
            for token, row in self.config.special_rows.items():
                x = torch.where((input_ids == token)[..., None], self.special_embedding.weight[row], x)
        if pixel_values is None or image_grid_hw is None:
            return x
        image = input_ids == self.config.image_token_id
        features = self.get_image_features(pixel_values, image_grid_hw)
        if len(features) != int(image.sum()):
            raise ValueError(
                f"input_ids have {int(image.sum())} image placeholders, pixel_values make {len(features)} image "
                "tokens; take both from one call of the processor"
            )
        return x.masked_scatter(image[..., None], features.to(x.dtype))

    def get_image_features(self, pixel_values: torch.Tensor, image_grid_hw: torch.Tensor) -> torch.Tensor:
        """[N, H] image tokens of all views, in the order of ``pixel_values``."""
        if self.config.vision_config is None:
            stem: torch.Tensor = self.patch_stem(pixel_values.to(self.dtype))
            return stem
        rows = self.vision(pixel_values, grids_of(image_grid_hw), self.config._attn_implementation)
        tokens: torch.Tensor = self.connector(rows)
        return tokens

    def _step(
        self,
        x: Any,
        input_ids: torch.Tensor | None,
        image_grid_hw: torch.Tensor | None,
        attention_mask: torch.Tensor | None,
        position_ids: torch.Tensor | None,
        seen: int,
    ) -> _Step:
        """Positions, mask and modalities of the tokens ``x`` [B, S, H] behind ``seen`` others."""
        config, new = self.config, x.shape[1]
        real = token_mask(attention_mask, seen + new)
        if position_ids is None:
            position_ids = positions(real, seen, new, x.device)
        pairs = torch.arange(0, config.head_dim, 2, dtype=torch.float32, device=x.device)
        angle = position_ids[..., None].float() * config.rope_theta ** (-pairs / config.head_dim)
        modalities = blocks = None
        if input_ids is not None:
            image = input_ids == config.image_token_id
            if config.modality_experts != "none":
                modalities = Modalities.of(image | (input_ids == config.begin_of_image_token_id))
            if image_grid_hw is not None and config.image_mask == "bidirectional":
                blocks = image_blocks(image, image_grid_hw.to(x.device).prod(1) // config.merge_size**2)
        mask = decoder_mask(real, blocks, seen, new, x.device)
        if config._attn_implementation == "eager":
            mask = added(mask, seen, new, x.dtype, x.device)
        return _Step(rotation(angle, x.dtype), mask, modalities)


class NativeMultimodalForConditionalGeneration(NativeMultimodalPreTrainedModel, GenerationMixin):
    """The model with its output layer: ``generate()`` and, from labels, the loss."""

    _tied_weights_keys: ClassVar[dict[str, str]] = {"lm_head.weight": "model.embed_tokens.weight"}

    def __init__(self, config: NativeMultimodalConfig) -> None:
        super().__init__(config)
        self.model = NativeMultimodalModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        image_grid_hw: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Scores [B, S, V], or of the last ``logits_to_keep`` positions; other arguments as NativeMultimodalModel's.

        labels [B, S]: the tokens themselves (they are shifted here), -100 where none is supervised; images and what
        lays them out never are, nor what follows padding. The loss is a mean over supervised tokens, or with
        ``num_items_in_batch`` a sum divided by that.
        """
        outputs = self.model(
            input_ids=input_ids,
            pixel_values=pixel_values,
            image_grid_hw=image_grid_hw,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **{**kwargs, "return_dict": True},
        )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(outputs.last_hidden_state[:, kept])
        loss = None
        if labels is not None:
            loss = self._loss(logits, labels, attention_mask, kwargs.get("num_items_in_batch"))
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def _loss(
        self, logits: torch.Tensor, labels: torch.Tensor, attention_mask: torch.Tensor | None, items: Any
    ) -> torch.Tensor:
        """Next-token cross entropy in fp32."""
        following, scores = labels[:, 1:], logits[:, :-1].float()
        left_out = torch.isin(following, torch.tensor(self.config.image_ids, device=labels.device))
        if attention_mask is not None:
            left_out = left_out | (attention_mask[:, :-1] == 0)
        following = following.masked_fill(left_out, -100).to(logits.device)
        total = nn.functional.cross_entropy(scores.flatten(0, 1), following.flatten(), reduction="sum")
        return total / ((following != -100).sum().clamp(min=1) if items is None else items)

    def get_image_features(self, pixel_values: torch.Tensor, image_grid_hw: torch.Tensor) -> torch.Tensor:
        """[N, H] image tokens of all views, in the order of ``pixel_values``."""
        return self.model.get_image_features(pixel_values, image_grid_hw)

    def prepare_inputs_for_generation(self, input_ids: torch.Tensor, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """As transformers', but images are read once: with a cache later tokens find them there."""
        inputs: dict[str, Any] = super().prepare_inputs_for_generation(input_ids, *args, **kwargs)
        cache = inputs.get("past_key_values")
        if cache is not None and cache.get_seq_length() > 0:
            inputs["pixel_values"] = inputs["image_grid_hw"] = None
        return inputs

    def _expand_inputs_for_generation(  # type: ignore[no-untyped-def]
        self, expand_size=1, is_encoder_decoder=False, input_ids=None, **model_kwargs
    ):
        """Rows repeated for beams or several answers, each with its own images; those are not cut by rows."""
        pixels, grids = model_kwargs.pop("pixel_values", None), model_kwargs.pop("image_grid_hw", None)
        if pixels is not None:
            pixels, grids = images_of_rows(
                input_ids == self.config.image_token_id, pixels, grids, self.config.merge_size**2, expand_size
            )
        ids, model_kwargs = super()._expand_inputs_for_generation(
            expand_size=expand_size, is_encoder_decoder=is_encoder_decoder, input_ids=input_ids, **model_kwargs
        )
        return ids, {**model_kwargs, "pixel_values": pixels, "image_grid_hw": grids}


def _wanted(asked: bool | None, usual: bool) -> bool:
    return usual if asked is None else asked
