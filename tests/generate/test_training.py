"""Answers are what full forward passes say, one token at a time, in every layout and every company."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache

import pytest
import torch

from megatron_nmm.config import ParallelConfig, RunConfig, SparseConfig
from megatron_nmm.data.prompt import Prompt, batch_of, load_prompts, prompt_batch
from megatron_nmm.data.tokens import Tokenizer
from megatron_nmm.errors import DataError
from megatron_nmm.generate.contract import Answer, Decoding, Likelihood
from megatron_nmm.generate.training import ROWS, TrainingModel
from megatron_nmm.models.build import build
from megatron_nmm.parallel import full_state
from megatron_nmm.parallel.world import World
from megatron_nmm.verify import compare
from megatron_nmm.verify.workers import Place, WorkerPool
from tests.data.corpora import png
from tests.train.runs import LENGTH, tiny_run

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
    "TP2+SPxPP2": (4, ParallelConfig(tensor=2, sequence=True, pipeline=2)),
}
GREEDY = Decoding(NEW_TOKENS)
DRAWN = Decoding(NEW_TOKENS, temperature=1.5, top_p=0.9, seed=7)
PAIRS = tuple(
    (prompt, text) for prompt, text in zip(PROMPTS, (" round thing.", " red", "", " large", "a"), strict=True)
)
MODELS = {
    "dense": {},
    "sparse": {"sparse": SparseConfig(experts=4)},
    "modality experts": {"modality_experts": "all", "special_embeddings": True},
    "grouped heads": {"query_groups": 2},
}


@dataclass(frozen=True)
class Built:
    """A run and one full state of random weights, large enough that no two tokens score alike."""

    run: RunConfig
    state: compare.State


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory, pool: WorkerPool) -> Callable[[str], Built]:
    run = tiny_run(tmp_path_factory.mktemp("generate"))

    @cache
    def built(name: str) -> Built:
        changed = replace(run, model=replace(run.model, init_std=0.3, **MODELS[name]))
        return Built(changed, compare.initial_state(pool, changed))

    return built


@pytest.fixture(scope="module")
def model(tiny: Callable[[str], Built]) -> Built:
    return tiny("dense")


@pytest.fixture(scope="module")
def alone(model: Built, pool: WorkerPool) -> tuple[list[list[Answer]], list[Likelihood]]:
    """Greedy and drawn answers, and likelihoods, of one process."""
    answers, likelihoods = pool.run(1, _everything, model, model.run.parallel)[0]
    return answers, likelihoods


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("cached", [True, False], ids=["cached", "plain"])
def test_answers_are_the_argmax_of_full_passes(
    name: str, cached: bool, tiny: Callable[[str], Built], pool: WorkerPool
) -> None:
    built = tiny(name)
    (found,) = pool.run(1, _answers, built, PROMPTS, GREEDY, ROWS, cached)
    assert [answer.text for answer in found] == pool.run(1, _naive, built, PROMPTS)[0]
    assert len({answer.text for answer in found}) >= len(PROMPTS) - 1


@pytest.mark.parametrize("layout", PARALLEL)
def test_every_layout_gives_the_same_on_every_rank(
    layout: str, model: Built, alone: tuple[list[list[Answer]], list[Likelihood]], pool: WorkerPool
) -> None:
    size, parallel = PARALLEL[layout]
    for answers, likelihoods in pool.run(size, _everything, model, parallel):
        assert answers == alone[0]
        assert [(one.tokens, one.greedy) for one in likelihoods] == [(one.tokens, one.greedy) for one in alone[1]]
        assert [one.nats for one in likelihoods] == pytest.approx([one.nats for one in alone[1]], rel=1e-5)


def test_ranks_that_share_experts_answer_together(tiny: Callable[[str], Built], pool: WorkerPool) -> None:
    built = tiny("sparse")
    expected = pool.run(1, _everything, built, ParallelConfig())[0]
    assert [answers for answers, _ in pool.run(2, _everything, built, ParallelConfig(expert=2))] == [expected[0]] * 2


def test_virtual_stages_keep_keys_of_every_layer(tiny: Callable[[str], Built], pool: WorkerPool) -> None:
    built = tiny("dense")
    deeper = replace(built.run, model=replace(built.run.model, layers=8))
    deep = Built(deeper, compare.initial_state(pool, deeper))
    expected = pool.run(1, _everything, deep, ParallelConfig())[0]
    virtual = ParallelConfig(pipeline=4, virtual_stages=2)
    assert [answers for answers, _ in pool.run(4, _everything, deep, virtual)] == [expected[0]] * 4


def test_the_company_of_a_prompt_does_not_matter(
    model: Built, alone: tuple[list[list[Answer]], list[Likelihood]], pool: WorkerPool
) -> None:
    greedy, drawn = alone[0]
    assert [pool.run(1, _answers, model, [prompt], GREEDY)[0][0] for prompt in PROMPTS] == greedy
    assert pool.run(1, _answers, model, PROMPTS, DRAWN, 2)[0] == drawn


def test_draws_follow_the_seed(
    model: Built, alone: tuple[list[list[Answer]], list[Likelihood]], pool: WorkerPool
) -> None:
    greedy, drawn = alone[0]
    assert greedy != drawn
    assert pool.run(1, _answers, model, PROMPTS, replace(DRAWN, seed=8))[0] != drawn
    # A nucleus of one token is the likeliest token.
    assert pool.run(1, _answers, model, PROMPTS, replace(DRAWN, top_p=1e-9))[0] == greedy


def test_a_stop_string_ends_an_answer_and_pieces_heard_make_its_text(
    model: Built, alone: tuple[list[list[Answer]], list[Likelihood]], pool: WorkerPool
) -> None:
    text = alone[0][0][0].text
    stop = text[len(text) // 2 :][:2]
    decoding = replace(GREEDY, stop=(stop,))
    ((found, heard),) = pool.run(1, _heard, model, decoding)
    assert found[0].ended == "stop"
    assert found[0].text == text[: text.index(stop)]
    assert heard == {number: answer.text for number, answer in enumerate(found) if answer.text}


def test_likelihoods_are_those_of_full_passes(
    model: Built, alone: tuple[list[list[Answer]], list[Likelihood]], pool: WorkerPool
) -> None:
    (expected,) = pool.run(1, _naive_likelihoods, model)
    assert [one.tokens for one in alone[1]] == [tokens for _, tokens in expected]
    assert [one.nats for one in alone[1]] == pytest.approx([nats for nats, _ in expected], rel=1e-5)


def test_no_prompts_no_answers(model: Built, pool: WorkerPool) -> None:
    assert pool.run(2, _answers, model, (), GREEDY) == [[], []]


def test_an_answer_ends_before_the_end_of_sequence(model: Built, pool: WorkerPool) -> None:
    assert pool.run(1, _with_eos, model)[0] == []


def test_a_bad_prompt_is_named_on_every_rank(model: Built, pool: WorkerPool) -> None:
    for message in pool.run(2, _refused, model):
        assert "prompt 1 has 1 <image> markers but 0 images" in message


def _built(built: Built, run: RunConfig, world: World) -> torch.nn.Module:
    network = build(run, world)
    full_state.load(network, built.state)
    return network


@contextmanager
def _opened(
    place: Place, built: Built, parallel: ParallelConfig, rows: int = ROWS, cached: bool = True
) -> Iterator[TrainingModel]:
    run = replace(built.run, parallel=parallel)
    with place.world(parallel) as world:
        network = _built(built, run, world)
        yield TrainingModel(network, run, Tokenizer(run.data.tokenizer), world, rows, cached)


def _answers(
    place: Place,
    built: Built,
    prompts: Sequence[Prompt],
    decoding: Decoding,
    rows: int = ROWS,
    cached: bool = True,
) -> list[Answer]:
    with _opened(place, built, ParallelConfig(), rows, cached) as model:
        return model.answers(prompts, decoding)


def _everything(place: Place, built: Built, parallel: ParallelConfig) -> tuple[list[list[Answer]], list[Likelihood]]:
    with _opened(place, built, parallel, rows=2) as model:
        return [model.answers(PROMPTS, decoding) for decoding in (GREEDY, DRAWN)], model.likelihoods(PAIRS, end=True)


def _heard(place: Place, built: Built, decoding: Decoding) -> tuple[list[Answer], dict[int, str]]:
    heard: dict[int, str] = {}

    def listen(number: int, piece: str) -> None:
        heard[number] = heard.get(number, "") + piece

    with _opened(place, built, ParallelConfig()) as model:
        return model.answers(PROMPTS, decoding, listen), heard


def _naive(place: Place, built: Built, prompts: Sequence[Prompt]) -> list[str]:
    """Every prompt alone in a row without padding, the row made anew for every token."""
    run, texts = built.run, []
    tokenizer = Tokenizer(run.data.tokenizer)
    with place.world(run.parallel) as world:
        network = _built(built, run, world).requires_grad_(False)
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


def _naive_likelihoods(place: Place, built: Built) -> list[tuple[float, int]]:
    """(nats, tokens) of every pair from log-softmax over its row alone."""
    run, found = built.run, []
    tokenizer = Tokenizer(run.data.tokenizer)
    with place.world(run.parallel) as world:
        network = _built(built, run, world).requires_grad_(False)
        for (text, images), continuation in PAIRS:
            prompt = int(prompt_batch(run, tokenizer, [(text, images)]).document_starts[0, 1])
            (whole,) = load_prompts(run, tokenizer, [(text + continuation, images)], LENGTH, end=True)
            row = batch_of(run, tokenizer, [whole], len(whole.tokens))
            logs = network.module(row, logits=True)[0].double().log_softmax(-1)  # type: ignore[operator,union-attr]
            places = range(prompt, len(whole.tokens))
            found.append((-sum(float(logs[at - 1, whole.tokens[at]]) for at in places), len(places)))
    return found


def _with_eos(place: Place, built: Built) -> list[str]:
    """Rows whose answer does not end with the first token, when the likeliest first token is called eos."""
    wrong = []
    with _opened(place, built, ParallelConfig()) as model:
        for prompt in PROMPTS:
            row = prompt_batch(model.run, model.tokenizer, [prompt])
            with torch.no_grad():
                scores = model.model.module(row, logits=True)  # type: ignore[operator,union-attr]
            first = scores[0, row.document_starts[0, 1] - 1, : model.tokenizer.size].argmax()
            model.tokenizer.eos = int(first)
            wrong += [one for one in model.answers([prompt], GREEDY) if one.text or one.ended != "eos"]
    return [one.text for one in wrong]


def _refused(place: Place, built: Built) -> str:
    with _opened(place, built, ParallelConfig()) as model:
        try:
            model.answers([("small", ()), ("<image> a", ())], GREEDY)
        except DataError as error:
            return str(error)
    return "accepted"
