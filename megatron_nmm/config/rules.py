"""What values of the tree ask of each other, as a table of rules: the keys a rule reads and the function that judges.

A rule runs only when every key it reads is in order by itself, so it never divides by zero and never repeats a fault.
The functions stand in rules_*.py, by what they are about.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from megatron_nmm.config import rules_freezing as freezing
from megatron_nmm.config import rules_images as images
from megatron_nmm.config import rules_layout as layout
from megatron_nmm.config import rules_precision as precision
from megatron_nmm.config import rules_sparse as sparse
from megatron_nmm.config import rules_stages as stages
from megatron_nmm.config import rules_training as training
from megatron_nmm.config import rules_vision as vision
from megatron_nmm.config.fault import WORLD, Fault
from megatron_nmm.config.schema import RunConfig

__all__ = ["RULES", "WORLD", "Judge", "Rule"]

Judge = Callable[[RunConfig, int], Iterator[Fault]]


@dataclass(frozen=True)
class Rule:
    """One relation between values."""

    reads: tuple[str, ...]
    """Keys (or groups of keys) that must be in order by themselves before the rule makes sense."""
    judge: Judge


HEADS = ("model.width", "model.heads", "model.query_groups", "model.head_dim")
SHAPE = (*HEADS, "model.ffn", "model.vocabulary", "parallel.tensor")
CONTEXT = ("parallel.context", "data.sequence_length")
LAYOUT = ("parallel.tensor", "parallel.context", "parallel.pipeline", WORLD)
SEQUENCE = ("parallel.sequence", "data.microbatch", "data.sequence_length")
STAGES = ("model.layers", "parallel.pipeline", "parallel.virtual_stages", "parallel.stage_layers")
BATCH = ("data.microbatch", "data.global_batch")
ENCODER = ("model.vision.depth", "model.vision.width", "model.vision.heads", "model.vision.positions")
TOKEN = ("model.vision.depth", "model.vision.patch", "model.vision.connector")
PLACES = ("model.vision.depth", "model.vision.positions", "model.vision.table_side", "model.vision.class_token")
IMAGES = (*TOKEN, "data.image_rule", "data.sequence_length")
NATIVE = ("data.min_patches", "data.max_patches", "data.multi_scale", "data.augment")
EXPERTS = ("model.sparse.experts", "parallel.expert")
RECIPE = ("precision.recipe", "precision.emulate", "device")
PARTS = (
    "model.vision.depth",
    "model.modality_experts",
    "model.layers",
    "model.sparse",
    "model.special_embeddings",
    "model.tie_embeddings",
)

RULES: tuple[Rule, ...] = (
    Rule(("name",), training.name_is_a_word),
    Rule(("name", "folder"), training.folder_is_named),
    Rule(SHAPE, layout.heads_split_width),
    Rule(SHAPE, layout.groups_split_heads),
    Rule(SHAPE, layout.tensor_splits_model),
    Rule(STAGES, stages.stages_hold_layers),
    Rule(STAGES, stages.virtual_stages_have_ranks),
    Rule((*SHAPE, *LAYOUT, *STAGES, *CONTEXT), layout.world_holds_layout),
    Rule(CONTEXT, layout.context_cuts_rows),
    Rule((*SHAPE, "parallel.sequence", "data.microbatch", *CONTEXT), layout.sequence_parallel_splits_rows),
    Rule(
        ("parallel.overlap_weights", "parallel.overlap_gradients", "parallel.distributed_optimizer"),
        layout.overlap_has_shards,
    ),
    Rule((*LAYOUT, *BATCH), layout.batch_divides),
    Rule((*LAYOUT, *BATCH, "parallel.virtual_stages"), stages.microbatches_fill_rounds),
    Rule(ENCODER, vision.vision_heads_split_width),
    Rule(("model.vision.depth", "model.vision.full_layers"), vision.full_layers_exist),
    Rule(("model.vision.window", *TOKEN), vision.windows_hold_tokens),
    Rule((*PLACES, *IMAGES, "data.image_size"), vision.positions_have_a_table),
    Rule((*PLACES, "model.vision.window"), vision.class_token_has_a_place),
    Rule((*ENCODER, "model.vision.ffn", "parallel.vision", "parallel.tensor"), vision.tensor_splits_encoder),
    Rule(("model.sparse.experts", "model.sparse.top_k"), sparse.experts_are_enough),
    Rule(("model.sparse.experts", "model.sparse.dense_layers", "model.layers"), sparse.some_layer_is_sparse),
    Rule(("model.sparse.experts", "model.modality_experts"), sparse.one_sort_of_experts),
    Rule((*EXPERTS, *LAYOUT), sparse.ranks_share_experts),
    Rule(("model.sparse.experts", "parallel.tensor", "parallel.sequence"), sparse.experts_see_whole_sequences),
    Rule(("model.sparse.experts", "parallel.dispatcher", "device"), sparse.dispatcher_suits_device),
    Rule(("data.image_size", *IMAGES), images.patches_tile_images),
    Rule((*NATIVE, *IMAGES), images.native_images_fit),
    Rule(("precision", "model.layers", "parallel.pipeline"), precision.plain_layers_fit),
    Rule((*RECIPE, "precision.fp8_parameters", "parallel"), precision.eight_bit_parameters_are_sharded),
    Rule((*RECIPE, *SHAPE, *SEQUENCE, *ENCODER, "model.sparse"), precision.products_suit_the_recipe),
    Rule(("steps", "schedule.warmup"), training.warmup_fits),
    Rule(("optim.weight_decay", "optim.decoupled"), training.decay_shrinks),
    Rule((*PARTS, "optim.rates"), freezing.something_learns),
)
