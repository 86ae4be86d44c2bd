"""The exported model says what the training model says: scores, losses, greedy answers, for every kind of model."""

from typing import Any

import pytest
import torch

from megatron_nmm.data.prompt import prompt_batch
from tests.hf.conftest import PROMPTS, Case, prompts
from tests.hf.jobs import NEW_TOKENS

TOLERANCE = 1e-5


def close(got: torch.Tensor, expected: torch.Tensor) -> bool:
    """Within TOLERANCE of the largest value."""
    return bool((got - expected).abs().max() <= TOLERANCE * expected.abs().max())


def scores(model: Any, inputs: Any, **options: Any) -> torch.Tensor:
    """[B, S, V]."""
    with torch.no_grad():
        found: torch.Tensor = model(**inputs, **options).logits
    return found


def rows(values: torch.Tensor, mask: torch.Tensor) -> list[torch.Tensor]:
    """Each row without its padding."""
    return [row[real.bool()] for row, real in zip(values, mask, strict=True)]


def new_tokens(case: Case, model: Any, inputs: Any, **options: Any) -> list[list[int]]:
    """Greedy answers without what follows the end of sequence."""
    made = model.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False, **options)
    answers = made[:, inputs["input_ids"].shape[1] :].tolist()
    eos = case.tokenizer.eos
    return [answer[: answer.index(eos)] if eos in answer else answer for answer in answers]


def test_scores_are_those_of_training_for_every_prompt_alone(case: Case) -> None:
    for name, expected in zip(PROMPTS, case.scores, strict=True):
        inputs = case.inputs(name)
        (row,) = scores(case.model, inputs)
        assert close(row, expected[: len(row)]), name


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing_on_either_side(side: str, case: Case) -> None:
    inputs = case.inputs(padding_side=side)
    for row, expected in zip(rows(scores(case.model, inputs), inputs["attention_mask"]), case.scores, strict=True):
        assert close(row, expected[: len(row)])


def test_padding_between_tokens_changes_nothing_either(case: Case) -> None:
    inputs = case.inputs("interleaved")
    ids, pad = inputs["input_ids"], torch.full((1, 3), case.tokenizer.pad)
    apart = torch.cat([ids[:, :2], pad, ids[:, 2:]], 1)
    mask = torch.ones_like(apart)
    mask[:, 2:5] = 0
    (found,) = rows(scores(case.model, {**inputs, "input_ids": apart, "attention_mask": mask}), mask)
    assert close(found, scores(case.model, inputs)[0])


def test_the_loss_is_that_of_training(case: Case) -> None:
    for name, expected in zip(PROMPTS, case.losses, strict=True):
        inputs = case.inputs(name)
        loss = case.model(**inputs, labels=inputs["input_ids"]).loss.item()
        supervised = expected == expected
        assert abs(loss - expected) <= TOLERANCE * expected if supervised else loss == 0, name


def test_the_loss_is_a_mean_over_supervised_tokens_or_over_the_number_given(case: Case) -> None:
    inputs = case.inputs()
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    counts = prompt_batch(case.run, case.tokenizer, prompts()).loss_weight.sum(1)
    total = sum(loss * int(count) for loss, count in zip(case.losses, counts, strict=True) if count)
    mean = case.model(**inputs, labels=labels).loss.item()
    of_ten = case.model(**inputs, labels=labels, num_items_in_batch=10).loss.item()
    assert mean == pytest.approx(total / float(counts.sum()), rel=TOLERANCE)
    assert of_ten == pytest.approx(total / 10, rel=TOLERANCE)


def test_greedy_answers_are_those_of_training(case: Case) -> None:
    assert [new_tokens(case, case.model, case.inputs(name))[0] for name in PROMPTS] == case.answers


def test_answers_need_neither_cache_nor_solitude(case: Case) -> None:
    inputs = case.inputs()
    assert new_tokens(case, case.model, inputs) == case.answers
    assert new_tokens(case, case.model, inputs, use_cache=False) == case.answers


def test_several_answers_a_prompt_see_the_prompts_own_images(case: Case) -> None:
    inputs = case.inputs("one image", "text", "several images")
    settings = {"max_new_tokens": 3, "do_sample": False, "num_beams": 2}
    alone = [case.model.generate(**case.inputs(name), **settings) for name in ("one image", "text", "several images")]
    together = case.model.generate(**inputs, **settings)
    assert together[:, -3:].tolist() == [one[0, -3:].tolist() for one in alone]
    twice = case.model.generate(**inputs, max_new_tokens=3, do_sample=True, top_k=1, num_return_sequences=2)
    greedy = case.model.generate(**inputs, max_new_tokens=3, do_sample=False)
    assert torch.equal(twice, greedy.repeat_interleave(2, 0))


def test_tokens_fed_one_by_one_after_a_prompt_score_as_in_one_pass(case: Case) -> None:
    inputs = case.inputs("interleaved")
    ids, whole = inputs["input_ids"], scores(case.model, inputs)
    more = torch.tensor([[20, 30, 40]])
    longer = scores(case.model, {**inputs, "input_ids": torch.cat([ids, more], 1), "attention_mask": None})
    with torch.no_grad():
        first = case.model(**{**inputs, "attention_mask": None}, use_cache=True)
        cache = first.past_key_values
        steps = [case.model(input_ids=token[None, None], past_key_values=cache).logits for token in more[0]]
    assert close(first.logits, whole)
    assert close(torch.cat(steps, 1), longer[:, -3:])
