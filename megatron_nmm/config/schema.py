"""The configuration tree: frozen dataclasses, standard library only.

A recipe is a Python function that returns one ``RunConfig``. Every field has a default that a laptop can run,
so a recipe states only what makes it different. Derived values are properties, never fields. P1 is "Scaling Laws for
Native Multimodal Models" (arXiv 2504.07951), NaViL is arXiv 2510.08565.
"""

import math
from dataclasses import dataclass, field
from typing import Literal

from megatron_nmm.config.schema_model import ModelConfig

Dtype = Literal["fp32", "bf16"]
ImageRuleName = Literal["square", "native"]
ShareOf = Literal["packs", "tokens", "samples"]
DecoderName = Literal["auto", "pillow", "simplejpeg", "dali"]
VisionParallel = Literal["auto", "tensor", "data"]
Dispatcher = Literal["kernels", "allgather", "alltoall", "deepep"]
Recipe = Literal["plain", "fp8_delayed", "fp8_current", "fp8_blockwise", "mxfp8"]
GradientFormat = Literal["auto", "e4m3", "e5m2"]


@dataclass(frozen=True)
class ParallelConfig:
    """How one model is spread over processes. Data parallel size is what is left: world / ``of_copy``."""

    @property
    def processes(self) -> int:
        """The fewest that this layout fits: one copy of the model, its sparse experts included."""
        return math.lcm(self.tensor * self.context, self.expert) * self.pipeline

    @property
    def of_copy(self) -> int:
        """Processes that share one copy of the model, sparse experts aside: tensor x context x pipeline."""
        return self.tensor * self.context * self.pipeline

    @property
    def stages(self) -> int:
        """Stages that the decoder is cut into, rank after rank and round after round."""
        return self.pipeline * self.virtual_stages

    @property
    def shape(self) -> dict[str, int]:
        """The sizes that make up ``of_copy``, by name; context only where rows are shared."""
        context = {"context": self.context} if self.context > 1 else {}
        return {"tensor": self.tensor, **context, "pipeline": self.pipeline}

    @property
    def chunks(self) -> int:
        """Pieces of a row: two for each context rank, so that a cheap early one can balance a dear late one."""
        return 2 * self.context if self.context > 1 else 1

    tensor: int = 1
    pipeline: int = 1
    context: int = 1
    """Ranks that share the positions of every row: activations and attention of long rows fall by as much."""
    expert: int = 1
    """Ranks that share the sparse experts of a layer; they are taken from the data, context and tensor ranks of a
    stage. Experts stay whole: tensor ranks hold different ones in place of parts of the same."""
    dispatcher: Dispatcher = "kernels"
    """What carries tokens to sparse experts and back: kernels = our operators around one all-to-all; allgather,
    alltoall = megatron-core's; deepep = megatron-core's over DeepEP, on GPUs."""
    virtual_stages: int = 1
    """Pieces of the decoder on each pipeline rank, dealt in turn: a pipeline waits for its first and last microbatches
    so many times less, and sends so many times more."""
    sequence: bool = False
    """Sequence parallelism: norms and residuals split over the tensor group along the sequence."""
    distributed_optimizer: bool = False
    """Shard optimizer state over the data-parallel group, context ranks included."""
    overlap_gradients: bool = False
    """Reduce gradients bucket by bucket while the last backward pass of a step still runs. Pays where a device
    communicates beside its computations; on CPUs both take the same cores."""
    overlap_weights: bool = False
    """With ``distributed_optimizer`` and ``overlap_gradients``: gather what other ranks have updated bucket by bucket
    while the next forward pass already runs."""
    stage_layers: tuple[int, ...] = ()
    """Decoder layers of each stage, in the decoder's order (pipeline x virtual_stages of them); none = planned so that
    stages cost alike, encoder and output included."""
    vision: VisionParallel = "auto"
    """How the tensor group shares the vision encoder: split its matrices (tensor), or keep them whole and spread the
    images (data); auto = tensor, but data where heads do not divide or the encoder is small and data sends less."""
    recompute: Literal["none", "selective", "full"] = "none"
    """What the backward pass computes again in place of keeping it: full = every layer; selective = attention, from
    queries, keys and values on (not MLPs: megatron-core would run them outside the layer that hands them their plan).
    """
    time_limit_s: float = 600.0
    """Longest a rank waits in a collective before it fails with a message."""


@dataclass(frozen=True)
class PrecisionConfig:
    """Numeric formats. Gradients are always accumulated and reduced in fp32.

    ``recipe`` is about the matrix products of transformer layers, the decoder's and the vision encoder's. Whatever it
    says, routers, patch stem, connector, norms, attention scores and the output layer stay in ``dtype`` or above.
    """

    dtype: Dtype = "bf16"
    recipe: Recipe = "plain"
    """How operands of those products are cast to 8 bits (config/recipes.py): plain = not at all. fp8_delayed: one scale
    a tensor, from earlier amaxes; fp8_current: one a tensor, from its own; fp8_blockwise: one for 1 x 128 activations
    and gradients, 128 x 128 weights; mxfp8: a power of two for 32 values."""
    emulate: bool = False
    """Compute the recipe with torch's casts (megatron_nmm/precision) where a GPU has Transformer Engine, too; a CPU
    always does. Same numbers, no speed."""
    attention: Literal["auto", "flex"] = "auto"
    """Who attends where Transformer Engine multiplies: auto = its fused kernels for documents without bidirectional
    images and for encoders, in bf16 and whole rows, FlexAttention elsewhere; flex = FlexAttention everywhere."""
    gradients: GradientFormat = "auto"
    """8-bit format of gradients; forward operands are e4m3. auto = e5m2 with one scale a tensor, e4m3 with blocks."""
    plain_first: int = 0
    """Decoder layers at the beginning that stay plain."""
    plain_last: int = 0
    """Decoder layers at the end that stay plain."""
    amax_history: int = 1024
    """fp8_delayed: microbatches whose amaxes are remembered."""
    amax_rule: Literal["max", "most_recent"] = "max"
    """fp8_delayed: which of them makes the scale."""
    amax_over: Literal["data", "tensor"] = "data"
    """fp8_delayed: ranks that share one amax: those of the tensor group, or all data ranks' as well."""
    fp8_parameters: bool = False
    """Keep weights of these products in 8 bits between steps, and gather them as such, beside the optimizer's sharded
    fp32 ones. Transformer Engine alone."""


@dataclass(frozen=True)
class SourceConfig:
    """One packed corpus in the training mixture."""

    corpus: str = ""
    """Folder written by tools/tokenise.py."""
    plan: str = ""
    """Pack plan written by tools/pack.py; empty = ``<corpus>/plan-<sequence_length>``."""
    weight: float = 1.0
    """Share of this source in the mixture, relative to the other weights, counted in ``data.share_of``."""
    max_epochs: float | None = None
    """Times this source is read at most; its share then goes to the others. None = as often as asked for."""

    def plan_path(self, sequence_length: int) -> str:
        """The pack plan for packed rows of this length: the given one, or the one beside the corpus."""
        return self.plan or f"{self.corpus}/plan-{sequence_length}"


@dataclass(frozen=True)
class DataConfig:
    """Where batches come from."""

    train: tuple[SourceConfig, ...] = ()
    """The training mixture."""
    tokenizer: str = ""
    """SentencePiece model, or folder with a Hugging Face tokenizer.json, that the corpora were tokenised with."""
    share_of: ShareOf = "packs"
    """What the weights of the mixture count."""
    temperature: float = 1.0
    """Weights are raised to 1 / temperature: above 1 small sources are read more often, 1 = as given."""
    sequence_length: int = 1024
    """LLM tokens in one packed row (S)."""
    microbatch: int = 1
    """Packed rows per microbatch and data-parallel rank (B)."""
    global_batch: int = 8
    """Packed rows per step over all ranks; a multiple of microbatch x data parallel size."""
    image_size: int = 224
    """Side of the square an image is resized to (rule "square"); a multiple of ``model.vision.patch``."""
    image_rule: ImageRuleName = "square"
    """square: every image becomes one square (P1); native: it keeps its size and shape (NaViL section 3)."""
    min_patches: int = 256
    """Fewest patches of an image under the native rule; smaller images are enlarged."""
    max_patches: int = 24_576
    """Most patches of an image under the native rule; larger images are reduced."""
    multi_scale: bool = False
    """Native rule: smaller copies of an image, each with half the pixels, stand before it (NaViL section 3)."""
    decoder: DecoderName = "auto"
    """What decodes images; auto = the fastest one installed."""
    decode: Literal["exact", "fast"] = "exact"
    """exact: pixels as Pillow gives them, resized within 5/255; fast: JPEGs are decoded at a reduced scale."""
    max_bad: int = 1000
    """Samples with an image that cannot be decoded a run puts up with; above that it stops."""
    max_bad_share: float = 0.001
    """The same as a share of the samples read, once 1,000 have been read."""
    augment: bool = True
    """P1's RandomResizedCrop(scale 0.4-1.0) and flip while training; off for data that a flip would change."""
    noise: float = 0.0
    """Standard deviation of Gaussian noise added to normalised patches while training."""
    workers: int = 1
    """Threads that read and decode ahead of the step; 0 = none, each step reads for itself and waits."""


@dataclass(frozen=True)
class RatesConfig:
    """Learning rate of each part of the model, relative to ``optim.learning_rate``. 0 = frozen: no gradient, no
    optimizer state. Weight decay slows down with it. models/parts.py says which parameters are which part."""

    vision: float = 1.0
    """The encoder, or in early fusion the patch stem."""
    connector: float = 1.0
    visual_attention: float = 1.0
    """Modality experts of image tokens: attention projections and q/k-norms."""
    visual_ffn: float = 1.0
    """Modality experts of image tokens: MLPs."""
    attention: float = 1.0
    """Attention projections and q/k-norms of text, or of both modalities where they share them."""
    ffn: float = 1.0
    """MLPs of text, or of both modalities where they share them; sparse experts too."""
    router: float = 1.0
    """Routers of sparse experts."""
    norms: float = 1.0
    """The decoder's norms, which both modalities share."""
    embeddings: float = 1.0
    special_embeddings: float = 1.0
    output: float = 1.0
    """The output layer; with tied embeddings it is the embedding table and this value is not read."""


@dataclass(frozen=True)
class OptimConfig:
    """AdamW. ``decoupled`` is P1's form: the decay does not scale with the learning rate."""

    learning_rate: float = 1.5e-3
    beta1: float = 0.9
    beta2: float = 0.95
    epsilon: float = 1e-8
    weight_decay: float = 1e-4
    decoupled: bool = True
    """True: p -= decay * schedule(step) * p with schedule in [0, 1]; False: p -= learning_rate * decay * p."""
    clip: float = 1.0
    """Largest global gradient norm; 0 = no clipping."""
    rates: RatesConfig = field(default_factory=RatesConfig)


@dataclass(frozen=True)
class ScheduleConfig:
    """Learning rate over the run: warm-up, plateau, fall."""

    kind: Literal["cooldown", "cosine", "constant"] = "cooldown"
    """cooldown: constant, then 1 - sqrt to 0 (P1); cosine; constant (NaViL)."""
    warmup: int | None = None
    """Steps of linear warm-up; None = P1's rule from the run length (appendix A); longer with sparse experts."""
    cooldown: float = 0.2
    """Share of the run's steps spent cooling down."""
    floor: float = 0.0
    """Lowest rate, as a share of the peak."""


@dataclass(frozen=True)
class SaveConfig:
    """Checkpoints under ``<run>/checkpoints``."""

    every: int = 0
    """Steps between checkpoints; 0 = only at the end (and on a stop request)."""
    keep: int = 2
    """Newest checkpoints kept."""
    at: tuple[int, ...] = ()
    """Steps saved as well, whose checkpoints stay whatever ``keep`` says: where other runs branch off."""


@dataclass(frozen=True)
class InitConfig:
    """Where a run's first weights come from; what none of these gives is drawn at random. Not read when it resumes."""

    checkpoint: str = ""
    """Folder of a run, or one of its checkpoints: all weights, with a new optimizer (the next training stage)."""
    continue_from: str = ""
    """A checkpoint of another run (its checkpoints/step-... folder): everything, with optimizer and place in the data.
    This run is that one up to there and goes its own way from the next step on, with another ``schedule`` or length."""
    language_model: str = ""
    """Hugging Face folder of a Qwen3, Llama or InternLM2 model: decoder and embeddings; visual experts get copies."""
    vision_model: str = ""
    """Hugging Face folder whose vision encoder has this one's shape: NaViL's, InternViT-300M or an InternVL of it."""


@dataclass(frozen=True)
class EvaluateConfig:
    """Validation on held-out streams."""

    every: int = 0
    """Steps between validations; 0 = only at the end."""
    sources: tuple[SourceConfig, ...] = ()
    """Held-out corpora, each reported by itself; none = no validation. Their weights play no part."""
    packs: int = 64
    """Packed rows read from each held-out source; the same ones every time."""


@dataclass(frozen=True)
class JournalConfig:
    """What a run writes about itself."""

    every: int = 1
    """Steps between lines of metrics.jsonl and TensorBoard."""
    tensorboard: bool = True
    telemetry: int = 20
    """Steps between measurements of gradients, updates and features by modality; 0 = never."""


@dataclass(frozen=True)
class RunConfig:
    """One training run, complete: everything the command line can change stands in this tree."""

    name: str = "run"
    """Title of plots and of the run's first line."""
    folder: str = "runs/run"
    """Where config.json, metrics, plots and checkpoints go."""
    steps: int = 1000
    seed: int = 1234
    device: Literal["auto", "cpu", "gpu"] = "auto"
    """auto: a GPU where there is one, else the CPU."""
    threads: int = 0
    """CPU threads per process; 0 = cores divided by the processes on this machine."""
    model: ModelConfig = field(default_factory=ModelConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    precision: PrecisionConfig = field(default_factory=PrecisionConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    init: InitConfig = field(default_factory=InitConfig)
    save: SaveConfig = field(default_factory=SaveConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    journal: JournalConfig = field(default_factory=JournalConfig)
