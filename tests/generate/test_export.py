"""An export answers as the checkpoint it was made from: the same tokens, greedy and drawn, and the same likelihoods."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from megatron_nmm.config import RunConfig
from megatron_nmm.data.prompt import Prompt
from megatron_nmm.data.tokens import Tokenizer
from megatron_nmm.errors import DataError
from megatron_nmm.generate.contract import Answer, Decoding, Likelihood
from megatron_nmm.generate.export import ExportModel
from megatron_nmm.generate.training import TrainingModel
from megatron_nmm.models.build import build
from megatron_nmm.parallel import full_state
from megatron_nmm.verify import compare
from megatron_nmm.verify.workers import Place, WorkerPool
from tests.hf.conftest import prompts
from tests.hf.mapping import model_of, processor_of
from tests.hf.variants import run_of, write_tokenizer

NAMES = ("early", "navil", "sparse top-2")
DECODINGS = (Decoding(6), Decoding(6, temperature=1.2, top_p=0.95, seed=4), Decoding(6, stop=("e",)))
CONTINUATIONS = (" red thing.", " large", "", "a", " plus")


@pytest.fixture(scope="module", params=NAMES)
def sides(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, pool: WorkerPool
) -> tuple[ExportModel, list[list[Answer]], list[Likelihood]]:
    """The export, and what training says."""
    tokenizer = write_tokenizer(tmp_path_factory.mktemp("export"))
    run = run_of(request.param, tokenizer)
    state = compare.initial_state(pool, run)
    answers, likelihoods = pool.run(1, _said, run, state, prompts())[0]
    return ExportModel(model_of(run, tokenizer, state), processor_of(run, tokenizer), tokenizer), answers, likelihoods


def _said(
    place: Place, run: RunConfig, state: Any, asked: Sequence[Prompt]
) -> tuple[list[list[Answer]], list[Likelihood]]:
    with place.world(run.parallel) as world:
        wrapped = build(run, world)
        full_state.load(wrapped, state)
        model = TrainingModel(wrapped, run, Tokenizer(run.data.tokenizer), world)
        answers = [model.answers(asked, decoding) for decoding in DECODINGS]
        return answers, model.likelihoods(list(zip(asked, CONTINUATIONS, strict=True)), end=True)


def test_an_export_says_what_training_says(
    sides: tuple[ExportModel, list[list[Answer]], list[Likelihood]],
) -> None:
    export, answers, likelihoods = sides
    for decoding, expected in zip(DECODINGS, answers, strict=True):
        heard = dict.fromkeys(range(len(expected)), "")

        def listen(number: int, piece: str, heard: dict[int, str] = heard) -> None:
            heard[number] += piece

        assert export.answers(prompts(), decoding, listen) == expected
        assert list(heard.values()) == [answer.text for answer in expected]
        assert replace(export, rows=2).answers(prompts(), decoding) == expected
    assert answers[0] != answers[1]
    found = export.likelihoods(list(zip(prompts(), CONTINUATIONS, strict=True)), end=True)
    assert [(one.tokens, one.greedy) for one in found] == [(one.tokens, one.greedy) for one in likelihoods]
    assert [one.nats for one in found] == pytest.approx([one.nats for one in likelihoods], rel=1e-5)


def test_what_cannot_be_used_is_named(sides: tuple[ExportModel, list[list[Answer]], list[Likelihood]]) -> None:
    export, image = sides[0], prompts()[1][1][0]
    for asked, told in (
        (("<image> a", ()), "prompt 1 has 1 <image> markers but 0 images"),
        (("<image> a", (image[:60],)), "prompt 1: an image cannot be decoded"),
    ):
        with pytest.raises(DataError, match=told):
            export.answers([("red", ()), asked], Decoding(2))
    with pytest.raises(DataError, match="prompt 0 has 0 <image> markers but 1 images"):
        export.likelihoods([(("a", (image,)), " red")])
