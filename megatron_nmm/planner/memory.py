"""Bytes that one rank allocates in a training step: weights, gradients, optimizer state, activations.

Weights, gradients and optimizer state are exact. Activations are those of the moment when most are alive: every
microbatch in flight keeps what its backward pass needs, and the last of them is at the step of its backward pass that
needs the most room beside that.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from megatron_nmm.config.recipes import facts
from megatron_nmm.config.schema import RunConfig
from megatron_nmm.models.accounting.activations import FP32, Kernels, Layer, backward_bytes, layer_bytes
from megatron_nmm.models.vision.placement import VALUE_BYTES
from megatron_nmm.planner.load import Load, decoder_layer, encoder_layer
from megatron_nmm.planner.place import Place
from megatron_nmm.planner.weights import Held, buffer_values, held

MOMENTS = 2 * FP32
"""AdamW's two, fp32."""
GEMM_WEIGHTS = ("linear_qkv", "linear_proj", "linear_fc1", "linear_fc2")
FP8_COPIES = 2
"""Bytes a weight: Transformer Engine keeps it in 8 bits as it stands and transposed, beside the one in bf16."""
INDEX_BYTES = 6 * 8
"""Index vectors of a microbatch (int64 each): tokens, places by modality and back, documents, image blocks, labels."""


@dataclass(frozen=True)
class Memory:
    """Bytes of one rank by what they are for."""

    weights: int
    gradients: int
    optimizer: int
    activations: float
    """Kept by all microbatches in flight."""
    working: float
    """Beside them at the fullest moment."""
    vision: float
    """Share of ``activations`` that patches and encoder have."""

    @property
    def total(self) -> float:
        """All of them."""
        return self.weights + self.gradients + self.optimizer + self.activations + self.working


@dataclass(frozen=True)
class Activations:
    """What one microbatch keeps on one rank."""

    layers: float
    """Decoder layers, or with full recomputation their inputs."""
    images: float
    """Patches, encoder, connector."""
    plan: float
    """Rotations and index vectors; on the first stage whole rows, of which its share of the stream is a view."""
    output: float
    """Final norm, supervised rows, their scores."""
    handed_on: float
    """Output of a stage that is not the last: the schedule holds it until its gradient comes."""

    @property
    def total(self) -> float:
        """All of it."""
        return self.layers + self.images + self.plan + self.output + self.handed_on


def memory(run: RunConfig, place: Place, rank: int, load: Load, kernels: Kernels = "compiled") -> Memory:
    """Memory of pipeline rank ``rank``."""
    states = states_of(run, place, held(run, place, rank))
    kept = activations(run, place, rank, load, kernels)
    flying = place.in_flight(rank)
    working = max(moments(run, place, rank, load, kernels)) + _gathered(run, place, load)
    return Memory(*states, flying * kept.total, working, flying * kept.images)


def states_of(run: RunConfig, place: Place, tensors: Sequence[Held]) -> tuple[int, int, int]:
    """Bytes of (weights, gradients, optimizer state); the last is that of the fullest data rank."""
    value, sharded = VALUE_BYTES[run.precision.dtype], run.parallel.distributed_optimizer
    state = MOMENTS + (FP32 if run.precision.dtype != "fp32" else 0)
    weights = value * sum(one.total for one in tensors if not one.trained)
    gradients = optimizer = 0
    for expert in (False, True):
        trained = [one for one in tensors if one.trained and one.expert == expert]
        replicas = place.replicas(expert=expert)
        values = buffer_values(trained, replicas, sharded=sharded)
        weights += value * values
        gradients += FP32 * values
        optimizer += state * (values // replicas if sharded else values)
    if facts(run.precision) and not run.precision.fp8_parameters:
        weights += FP8_COPIES * sum(one.total for one in tensors if one.name.endswith(GEMM_WEIGHTS))
    return weights, gradients, optimizer


def activations(run: RunConfig, place: Place, rank: int, load: Load, kernels: Kernels) -> Activations:
    """What one microbatch keeps on pipeline rank ``rank``."""
    model, value, tokens = run.model, VALUE_BYTES[run.precision.dtype], load.decoder.tokens
    layers = [decoder_layer(run, place, layer) for layer in place.layers[rank]]
    last = rank == place.pipeline - 1
    stream = tokens * model.width / place.sequence * value
    whole = (place.sequence - 1) * stream if rank == 0 else 0.0
    return Activations(
        layers=sum(_layer(run, place, layer, load, kernels) for layer in layers),
        images=_images(run, place, load, kernels) if rank == 0 else 0.0,
        plan=tokens * (model.head_width * value + INDEX_BYTES) + whole,
        output=_output(run, place, load) if last else 0.0,
        handed_on=0.0 if last else stream * place.virtual,
    )


def moments(run: RunConfig, place: Place, rank: int, load: Load, kernels: Kernels) -> list[float]:
    """Bytes beside all that is kept at each moment that may be the fullest: at the end of the forward pass, in the
    final norm, in the last layer's MLP; less what the microbatch's backward pass has let go of by then."""
    model, value, tokens = run.model, VALUE_BYTES[run.precision.dtype], load.decoder.tokens
    stream = tokens * model.width / place.sequence
    layers = place.layers[rank]
    gone = _output(run, place, load) if rank == place.pipeline - 1 else 0.0
    found = [0.0]
    if gone:
        wide = 3 * FP32 + 2 * value if kernels == "few_passes" else 2 * value
        found.append(stream * wide - (gone - stream * value))
        if kernels == "compiled":
            found.append(model.vocabulary / place.tensor * model.width * value)
    if place.recompute == "full":
        # Behind the layer that runs again, inputs of layers have been let go of.
        for behind, number in enumerate(reversed(layers)):
            layer = decoder_layer(run, place, number)
            again = sum(layer_bytes(layer, load.decoder, value, kernels).values())
            found.append(backward_bytes(layer, tokens, value, kernels) + again - gone - behind * stream * value)
    elif layers:
        found.append(backward_bytes(decoder_layer(run, place, layers[-1]), tokens, value, kernels) - gone)
    return found


def _gathered(run: RunConfig, place: Place, load: Load) -> float:
    """megatron-core's buffer for rows that a linear layer gathers under sequence parallelism."""
    width = run.model.width * VALUE_BYTES[run.precision.dtype]
    return load.decoder.tokens * width if place.sequence > 1 else 0.0


def _layer(run: RunConfig, place: Place, layer: Layer, load: Load, kernels: Kernels) -> float:
    """One decoder layer by what is recomputed of it."""
    value = VALUE_BYTES[run.precision.dtype]
    if place.recompute == "full":
        return load.decoder.tokens * layer.stream * value
    attention = place.recompute != "selective"
    return sum(layer_bytes(layer, load.decoder, value, kernels, attention=attention).values())


def _images(run: RunConfig, place: Place, load: Load, kernels: Kernels) -> float:
    """Patches as the stem reads them, the encoder's layers, the connector, tokens as they are placed among the rest."""
    model, vision, value = run.model, run.model.vision, VALUE_BYTES[run.precision.dtype]
    tokens = load.work.patches / vision.shuffle**2
    if not vision.depth:
        return value * (load.work.patches * vision.patch_values + tokens * model.width)
    layer = encoder_layer(run, place)
    patches = load.encoder.tokens
    stem = patches / layer.sequence * vision.patch_values * value
    if place.recompute == "full":
        layers = vision.depth * patches * layer.stream * value
    else:
        layers = vision.depth * sum(layer_bytes(layer, load.encoder, value, kernels).values())
    own = patches / layer.sequence
    connector = own * vision.width * value
    if vision.final_norm:
        connector += own * (vision.width * value + (1 + layer.centred) * FP32)
    if vision.shuffle > 1:
        connector += own * vision.width * value
    if vision.connector != "linear":
        connector += 2 * own / vision.shuffle**2 * model.width * value
    # Cosines and sines, or which vector of the table each row takes.
    places = patches * INDEX_BYTES + (patches * vision.head_width * value if vision.positions == "rotary" else 0)
    return stem + layers + connector + places + tokens * model.width * value


def _output(run: RunConfig, place: Place, load: Load) -> float:
    """Input of the final norm, supervised rows and their scores, which the loss overwrites."""
    model, value = run.model, VALUE_BYTES[run.precision.dtype]
    stream = load.decoder.tokens / place.sequence * (model.width * value + FP32)
    logits = load.work.logit_tokens / place.context
    return stream + logits * (model.width + model.vocabulary / place.tensor) * value + logits * (2 * 8 + 1 + FP32)
