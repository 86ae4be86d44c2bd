"""The decoder written out in plain PyTorch, token by token in fp64, and batches with every token that lays out images.

Weights come by the names of a full state (parallel/full_state.py). Shapes: T tokens of one batch, H hidden.
"""

import itertools

import numpy as np
import torch
from torch.nn.functional import rms_norm, silu

from megatron_nmm.config import ModelConfig, RunConfig
from megatron_nmm.data.batch import Batch
from megatron_nmm.data.collate import collate
from megatron_nmm.data.load import Loaded
from megatron_nmm.data.rule import SPECIAL_ROWS, Grid, NativeRule, View
from megatron_nmm.verify.synthetic import FIRST_TEXT_TOKEN, SPECIAL

State = dict[str, torch.Tensor]


def native_batch(run: RunConfig, seed: int, images: tuple[int, ...] = (0, 2, 1)) -> Batch:
    """Packed rows whose documents hold ``images`` images each, of two views, with line and scale ends."""
    generator = np.random.default_rng(seed)
    rows = [
        [_document(run, generator, f"{row}-{number}", kind) for number, kind in enumerate(images)]
        for row in range(run.data.microbatch)
    ]
    return collate(rows, run.data.sequence_length, SPECIAL, run.model.vision.patch_values)


def _document(run: RunConfig, generator: np.random.Generator, name: str, images: int) -> Loaded:
    rule = NativeRule(run.model.vision.patch, 1, 16, True, 1)
    views = (View(Grid(1, 2), 8, 16), View(Grid(2, 3), 16, 24))
    ids = list(generator.integers(FIRST_TEXT_TOKEN, run.model.vocabulary, 7))
    for _ in range(images):
        ids += [*rule.image_ids(views, SPECIAL), *generator.integers(FIRST_TEXT_TOKEN, run.model.vocabulary, 5)]
    grids = tuple(view.grid for view in views) * images
    values = run.model.vision.patch_values
    patches = tuple(generator.standard_normal((grid.patches, values)).astype(np.float32) for grid in grids)
    return Loaded(name, images, 0, np.array(ids, dtype=np.int32), patches, grids)


def mean_loss(state: State, model: ModelConfig, batches: list[Batch]) -> torch.Tensor:
    """Mean cross entropy over the supervised tokens of ``batches``."""
    losses = []
    for batch in batches:
        log_probabilities = logits(state, model, batch).log_softmax(-1)
        supervised = batch.loss_weight.reshape(-1) > 0
        labels = batch.labels.reshape(-1)[supervised]
        losses.append(-log_probabilities[supervised].gather(1, labels[:, None]).squeeze(1))
    return torch.cat(losses).mean()


def logits(state: State, model: ModelConfig, batch: Batch) -> torch.Tensor:
    """[T, V]"""
    x = _embed(state, model, batch)
    visual = torch.zeros(len(x), dtype=torch.bool)
    visual[batch.visual_index] = True
    for layer in range(model.layers):
        weights = {
            name.removeprefix(f"decoder.layers.{layer}."): w
            for name, w in state.items()
            if name.startswith(f"decoder.layers.{layer}.")
        }
        x = x + _attention(weights, model, batch, visual, _norm(x, weights["input_layernorm.weight"], model))
        x = x + _mlp(weights, visual, _norm(x, weights["pre_mlp_layernorm.weight"], model))
    x = _norm(x, state["decoder.final_layernorm.weight"], model)
    return x @ state["output_layer.weight"].T


def _embed(state: State, model: ModelConfig, batch: Batch) -> torch.Tensor:
    tokens = batch.tokens.reshape(-1).tolist()
    images = iter(batch.patches.double() @ state["patch_stem.linear.weight"].T + state["patch_stem.linear.bias"])
    rows = []
    special = {SPECIAL[name]: row for name, row in SPECIAL_ROWS.items()}
    for token in tokens:
        if token == SPECIAL["image"]:
            rows.append(next(images))
        elif model.special_embeddings and token in special:
            rows.append(state["special_embedding.weight"][special[token]])
        else:
            rows.append(state["embedding.word_embeddings.weight"][token])
    return torch.stack(rows)


def _norm(x: torch.Tensor, weight: torch.Tensor, model: ModelConfig) -> torch.Tensor:
    return rms_norm(x, (x.shape[-1],), weight, model.norm_epsilon)


def _by_modality(weights: State, branch: str, leaf: str, visual: torch.Tensor) -> list[torch.Tensor]:
    """Each token's own weight, as a list of T tensors."""
    text = weights[f"{branch}.{leaf}.weight"]
    image = weights.get(f"{branch}.visual.{leaf}.weight", text)
    return [image if is_visual else text for is_visual in visual.tolist()]


def _products(x: torch.Tensor, weights: list[torch.Tensor]) -> torch.Tensor:
    return torch.stack([w @ row for row, w in zip(x, weights, strict=True)])


def _mlp(weights: State, visual: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    gate, up = _products(x, _by_modality(weights, "mlp", "linear_fc1", visual)).chunk(2, -1)
    return _products(silu(gate) * up, _by_modality(weights, "mlp", "linear_fc2", visual))


def _attention(weights: State, model: ModelConfig, batch: Batch, visual: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    groups, width = model.kv_heads, model.head_width
    repeat = model.heads // groups
    qkv = _products(x, _by_modality(weights, "self_attention", "linear_qkv", visual))
    q, k, v = qkv.view(len(x), groups, (repeat + 2) * width).split([repeat * width, width, width], -1)
    q = q.reshape(len(x), model.heads, width)
    if model.qk_norm:
        q_norm = torch.stack(_by_modality(weights, "self_attention", "q_layernorm", visual))
        k_norm = torch.stack(_by_modality(weights, "self_attention", "k_layernorm", visual))
        q = rms_norm(q, (width,), None, model.norm_epsilon) * q_norm[:, None]
        k = rms_norm(k, (width,), None, model.norm_epsilon) * k_norm[:, None]
    positions = batch.positions.reshape(-1)
    q, k = _turn(q, positions, model.rope_base), _turn(k, positions, model.rope_base)
    k, v = k.repeat_interleave(repeat, 1), v.repeat_interleave(repeat, 1)
    scores = torch.einsum("ihd,jhd->hij", q, k) * width**-0.5
    scores = scores.masked_fill(~_mask(batch, model), float("-inf"))
    out = torch.einsum("hij,jhd->ihd", scores.softmax(-1), v).flatten(1)
    return _products(out, _by_modality(weights, "self_attention", "linear_proj", visual))


def _turn(x: torch.Tensor, positions: torch.Tensor, base: float) -> torch.Tensor:
    width = x.shape[-1]
    angle = positions.double()[:, None, None] * base ** (-torch.arange(0, width, 2).double() / width)
    turned = torch.complex(*x.chunk(2, -1)) * torch.polar(torch.ones_like(angle), angle)
    return torch.cat([turned.real, turned.imag], -1)


def _mask(batch: Batch, model: ModelConfig) -> torch.Tensor:
    """[T, T] True where row i sees column j."""
    length = batch.sequence_length
    mask = torch.zeros(batch.rows * length, batch.rows * length, dtype=torch.bool)
    for row in range(batch.rows):
        for start, end in itertools.pairwise((batch.document_starts[row] + row * length).tolist()):
            mask[start:end, start:end] = torch.ones(end - start, end - start).tril().bool()
    if model.image_mask == "bidirectional":
        for row, start, end in (batch.image_blocks).tolist():
            place = slice(row * length + start, row * length + end)
            mask[place, place] = True
    return mask
