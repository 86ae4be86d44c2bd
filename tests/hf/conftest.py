"""One exported model of every variant beside what the training model with the same weights says."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch

from megatron_nmm.config import RunConfig
from megatron_nmm.data.prompt import Prompt
from megatron_nmm.data.tokens import Tokenizer
from megatron_nmm.hf import NativeMultimodalForConditionalGeneration, NativeMultimodalProcessor
from megatron_nmm.verify import compare
from megatron_nmm.verify.workers import WorkerPool
from tests.hf import jobs
from tests.hf.mapping import model_of, processor_of
from tests.hf.variants import VARIANTS, file_of, picture, run_of, write_tokenizer

IMAGES = [picture(seed, height, width) for seed, (height, width) in enumerate([(16, 16), (40, 24), (20, 52), (9, 30)])]
PROMPTS: dict[str, tuple[str, list[int]]] = {
    "text": ("green plus blue is", []),
    "one image": ("<image> a red", [0]),
    "several images": ("<image><image> plus is large", [1, 2]),
    "interleaved": ("small <image> is a <image> round thing. <image>", [3, 0, 1]),
    "an image alone": ("<image>", [2]),
}
"""Text, and which of IMAGES its markers stand for."""


@dataclass(frozen=True)
class Case:
    """A variant on both sides."""

    run: RunConfig
    tokenizer: Tokenizer
    model: NativeMultimodalForConditionalGeneration
    processor: NativeMultimodalProcessor
    scores: torch.Tensor
    """[prompts, S, V], padding on the right."""
    losses: list[float]
    answers: list[list[int]]

    def inputs(self, *names: str, **options: Any) -> Any:
        """The processor's answer to prompts, all by default."""
        chosen = [PROMPTS[name] for name in names or PROMPTS]
        images = [IMAGES[number] for _, numbers in chosen for number in numbers]
        return self.processor(images=images, text=[text for text, _ in chosen], **options)


def prompts() -> list[Prompt]:
    """PROMPTS as training takes them."""
    return [(text, tuple(file_of(IMAGES[number]) for number in numbers)) for text, numbers in PROMPTS.values()]


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """The training tokenizer."""
    return write_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="session", params=VARIANTS)
def case(request: pytest.FixtureRequest, tokenizer: Tokenizer, pool: WorkerPool) -> Case:
    """Every variant in turn."""
    run = run_of(request.param, tokenizer)
    state = compare.initial_state(pool, run)
    scores, losses, answers = pool.run(1, jobs.said, run, state, prompts())[0]
    return Case(run, tokenizer, model_of(run, tokenizer, state), processor_of(run, tokenizer), scores, losses, answers)
