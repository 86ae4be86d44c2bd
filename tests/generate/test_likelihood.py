"""Likelihoods of continuations: which tokens count, and what scores say of them."""

import math
from pathlib import Path

import torch

from megatron_nmm.data.tokens import Tokenizer
from megatron_nmm.generate.contract import Likelihood
from megatron_nmm.generate.likelihood import Asked, ask
from tests.data.corpora import png, run_config, tokenizer


def test_scores_become_nats_and_greedy_of_each_continuation(tmp_path: Path) -> None:
    asked = _asked(tmp_path, (1, 0, 2), (0, 2, 3))
    scores = torch.tensor([[0.25, 0.5, 0.25], [0.5, 0.25, 0.25], [0.5, 0.25, 0.25]]).log()
    first, second = asked.found(asked.read(scores))
    assert (first.tokens, first.greedy, second.tokens, second.greedy) == (2, True, 1, False)
    assert math.isclose(first.nats, 2 * math.log(2), rel_tol=1e-6)
    assert math.isclose(second.nats, math.log(4), rel_tol=1e-6)
    assert asked.found(torch.tensor([[1.0, 1], [2, 0], [3, 1]]).double()) == [
        Likelihood(3.0, 2, False),
        Likelihood(3.0, 1, True),
    ]


def test_the_tokens_behind_the_prompt_count(tmp_path: Path) -> None:
    run, words = run_config(tmp_path, []), tokenizer(tmp_path)
    pairs = [(("<image> a red", (png(1),)), " thing."), (("green", ()), "")]
    for end in (False, True):
        asked = ask(run, words, pairs, end)
        eos = [words.eos] if end else []
        continuation = words.encode("a red thing.")[len(words.encode("a red")) :]
        assert asked.labels.tolist() == [*continuation, *eos, *eos]
        assert asked.ends == (0, len(continuation) + len(eos), len(continuation) + 2 * len(eos))
        before = asked.batch.tokens.reshape(-1)[asked.at + 1][: len(continuation)]
        assert before.tolist() == continuation


def test_a_token_across_the_border_counts_and_a_first_token_cannot(tmp_path: Path) -> None:
    run, words = run_config(tmp_path, []), tokenizer(tmp_path)
    asked = ask(run, words, [(("re", ()), "d"), (("", ()), "red")], False)
    whole = words.encode("red")
    common = next((n for n, (a, b) in enumerate(zip(words.encode("re"), whole, strict=False)) if a != b), 1)
    assert asked.labels[: asked.ends[1]].tolist() == whole[max(common, 1) :]
    assert asked.labels[asked.ends[1] :].tolist() == whole[1:]


def _asked(folder: Path, labels: tuple[int, ...], ends: tuple[int, ...]) -> Asked:
    words: Tokenizer = tokenizer(folder)
    batch = ask(run_config(folder, []), words, [(("red", ()), " a")], False).batch
    return Asked(batch, torch.arange(len(labels)), torch.tensor(labels), ends)
