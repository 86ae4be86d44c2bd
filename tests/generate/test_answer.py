"""Greedy answers are what a full forward pass says, one token at a time, in every layout and every company."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from megatron_nmm.config import ParallelConfig, RunConfig, SparseConfig
from megatron_nmm.data.prompt import Prompt, prompt_batch
from megatron_nmm.data.tokens import Tokenizer
from megatron_nmm.errors import DataError
from megatron_nmm.generate import answer as module
from megatron_nmm.generate.answer import answer
from megatron_nmm.models.build import build
from megatron_nmm.parallel import full_state
from megatron_nmm.verify import compare
from megatron_nmm.verify.workers import Place, WorkerPool
from tests.data.corpora import png
from tests.train.runs import tiny_run

NEW_TOKENS = 5
PROMPTS: tuple[Prompt, ...] = (
    ("<image> a red", (png(1),)),
    ("green plus blue is", ()),
    ("<image> plus <image> is a large", (png(2), png(3))),
    ("small", ()),
    ("<image>", (png(4),)),
)
PARALLEL = {
    "TP2": (2, ParallelConfig(tensor=2)),
    "TP2+SP": (2, ParallelConfig(tensor=2, sequence=True)),
    "PP2": (2, ParallelConfig(pipeline=2)),
    "DP2": (2, ParallelConfig()),
    "CP2": (2, ParallelConfig(context=2)),
    "CP2xTP2+SP": (4, ParallelConfig(context=2, tensor=2, sequence=True)),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, pool: WorkerPool) -> tuple[RunConfig, compare.State]:
    """A run and one full state of random weights, large enough that no two tokens score alike."""
    run = tiny_run(tmp_path_factory.mktemp("generate"))
    run = replace(run, model=replace(run.model, init_std=0.3))
    return run, compare.initial_state(pool, run)


@pytest.fixture(scope="module")
def answers(model: tuple[RunConfig, compare.State], pool: WorkerPool) -> list[str]:
    """What one process answers."""
    return pool.run(1, _answer, *model, PROMPTS)[0]  # type: ignore[no-any-return]


def test_answers_are_the_argmax_of_full_passes(
    model: tuple[RunConfig, compare.State], answers: list[str], pool: WorkerPool
) -> None:
    assert answers == pool.run(1, _naive, *model, PROMPTS)[0]
    assert len(set(answers)) == len(PROMPTS)


def test_what_sparse_experts_answer_is_the_argmax_of_full_passes_too(
    model: tuple[RunConfig, compare.State], pool: WorkerPool
) -> None:
    """Answers are written where padding was, and padding has no expert."""
    sparse = replace(model[0], model=replace(model[0].model, sparse=SparseConfig(experts=4)))
    state = compare.initial_state(pool, sparse)
    assert pool.run(1, _answer, sparse, state, PROMPTS)[0] == pool.run(1, _naive, sparse, state, PROMPTS)[0]


@pytest.mark.parametrize("layout", PARALLEL)
def test_every_layout_gives_the_same_answers_on_every_rank(
    layout: str, model: tuple[RunConfig, compare.State], answers: list[str], pool: WorkerPool
) -> None:
    size, parallel = PARALLEL[layout]
    run, state = model
    assert pool.run(size, _answer, replace(run, parallel=parallel), state, PROMPTS) == [answers] * size


def test_the_company_of_a_prompt_does_not_matter(
    model: tuple[RunConfig, compare.State], answers: list[str], pool: WorkerPool
) -> None:
    assert [pool.run(1, _answer, *model, [prompt])[0][0] for prompt in PROMPTS] == answers
    assert pool.run(1, _answer, *model, PROMPTS, 2)[0] == answers


def test_no_prompts_no_answers(model: tuple[RunConfig, compare.State], pool: WorkerPool) -> None:
    assert pool.run(2, _answer, *model, ()) == [[], []]


def test_an_answer_ends_before_the_end_of_sequence(
    model: tuple[RunConfig, compare.State], answers: list[str], pool: WorkerPool
) -> None:
    assert pool.run(1, _with_eos, *model)[0] == []


def test_a_bad_prompt_is_named(model: tuple[RunConfig, compare.State], pool: WorkerPool) -> None:
    (message,) = pool.run(1, _refused, *model)
    assert "prompt 0 has 1 <image> markers but 0 images" in message


def _built(place: Place, run: RunConfig, state: compare.State, world: object) -> torch.nn.Module:
    network = build(run, world)  # type: ignore[arg-type]
    full_state.load(network, state)
    return network


def _answer(
    place: Place, run: RunConfig, state: compare.State, prompts: Sequence[Prompt], rows: int = module.ROWS
) -> list[str]:
    """``answer`` with ``rows`` prompts at a time."""
    module.ROWS = rows
    with place.world(run.parallel) as world:
        network = _built(place, run, state, world)
        return answer(network, run, Tokenizer(run.data.tokenizer), prompts, world, NEW_TOKENS)


def _naive(place: Place, run: RunConfig, state: compare.State, prompts: Sequence[Prompt]) -> list[str]:
    """Every prompt alone in a row without padding, the row made anew for every token."""
    tokenizer = Tokenizer(run.data.tokenizer)
    texts = []
    with place.world(run.parallel) as world:
        network = _built(place, run, state, world).requires_grad_(False)
        for prompt in prompts:
            length = int(prompt_batch(run, tokenizer, [prompt]).document_starts[0, 1])
            made: list[int] = []
            while len(made) < NEW_TOKENS and tokenizer.eos not in made:
                row = prompt_batch(run, tokenizer, [prompt], length + len(made))
                tokens = torch.cat([row.tokens[:, :length], torch.tensor([made], dtype=torch.int64)], dim=1)
                starts = torch.tensor([[0, length + len(made)]], dtype=torch.int32)
                positions = torch.arange(length + len(made))[None]
                filled = torch.tensor([length + len(made)])
                row = replace(row, tokens=tokens, document_starts=starts, positions=positions, filled=filled)
                made.append(int(network.module(row, logits=True)[0, -1, : tokenizer.size].argmax()))  # type: ignore[operator,union-attr]
            texts.append(tokenizer.decode([token for token in made if token != tokenizer.eos]))
    return texts


def _with_eos(place: Place, run: RunConfig, state: compare.State) -> list[str]:
    """Rows whose answer does not end with the first token, when the likeliest first token is called eos."""
    wrong = []
    tokenizer = Tokenizer(run.data.tokenizer)
    with place.world(run.parallel) as world:
        network = _built(place, run, state, world)
        for prompt in PROMPTS:
            row = prompt_batch(run, tokenizer, [prompt])
            with torch.no_grad():
                scores = network.module(row, logits=True)  # type: ignore[operator,union-attr]
            tokenizer.eos = int(scores[0, row.document_starts[0, 1] - 1, : tokenizer.size].argmax())
            texts = answer(network, run, tokenizer, [prompt], world, NEW_TOKENS)
            wrong += [text for text in texts if text]
    return wrong


def _refused(place: Place, run: RunConfig, state: compare.State) -> str:
    with place.world(run.parallel) as world:
        network = _built(place, run, state, world)
        try:
            answer(network, run, Tokenizer(run.data.tokenizer), [("<image> a", ())], world, NEW_TOKENS)
        except DataError as error:
            return str(error)
    return "accepted"
