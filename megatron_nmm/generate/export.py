"""Answers of an exported model through transformers' ``generate``: the same tokens as those of the checkpoint.

transformers walks and keeps the keys and values; the next token is chosen by the function that training checkpoints
use, so a seed draws alike on both sides. Shapes: B rows, S tokens of the longest, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from typing import Any

import torch
from PIL import Image

from megatron_nmm.data.prompt import Prompt, require_images
from megatron_nmm.data.tokens import Tokenizer
from megatron_nmm.errors import DataError
from megatron_nmm.generate.choose import Chooser
from megatron_nmm.generate.contract import Answer, Decoding, Likelihood, Listener
from megatron_nmm.generate.growing import Growing

ROWS = 32
"""Prompts that run together unless told otherwise."""


@dataclass(frozen=True)
class ExportModel:
    """An AnsweringModel of one process."""

    model: Any
    """A transformers model with ``generate``."""
    processor: Any
    """Makes its input of ``text`` and ``images``, padded on the left."""
    tokenizer: Tokenizer
    """Of the same vocabulary; turns answers into text as training does."""
    rows: int = ROWS

    def answers(self, prompts: Sequence[Prompt], decoding: Decoding, listen: Listener | None = None) -> list[Answer]:
        """As AnsweringModel says."""
        require_images(prompts)
        found: list[Answer] = []
        for first in range(0, len(prompts), self.rows):
            numbers = range(first, min(first + self.rows, len(prompts)))
            found += self._answers([prompts[number] for number in numbers], numbers, decoding, listen)
        return found

    def _answers(
        self, prompts: Sequence[Prompt], numbers: Sequence[int], decoding: Decoding, listen: Listener | None
    ) -> list[Answer]:
        growing = [
            Growing(self.tokenizer.decode, self.tokenizer.eos, decoding, listen and partial(listen, number))
            for number in numbers
        ]
        inputs = self._inputs(prompts)
        chosen = _Chosen(Chooser(decoding, numbers), growing, inputs["input_ids"].shape[1], self.tokenizer.size)
        with torch.no_grad():
            self.model.generate(
                **inputs,
                max_new_tokens=decoding.new_tokens,
                do_sample=False,
                num_beams=1,
                eos_token_id=None,
                pad_token_id=self.tokenizer.eos,
                logits_processor=[chosen],
                stopping_criteria=[chosen.stops],
            )
        return [answer.answer() for answer in growing]

    def likelihoods(self, pairs: Sequence[tuple[Prompt, str]], *, end: bool = False) -> list[Likelihood]:
        """As AnsweringModel says."""
        require_images([prompt for prompt, _ in pairs])
        return [self._likelihood(prompt, continuation, end) for prompt, continuation in pairs]

    def _likelihood(self, prompt: Prompt, continuation: str, end: bool) -> Likelihood:
        """One row alone: what its tokens cost in the scores of one pass."""
        inputs = self._inputs([(prompt[0] + continuation, prompt[1])])
        ids = inputs["input_ids"][0]
        alone = self._inputs([prompt])["input_ids"][0] if prompt[0] else ids[:0]
        first = max(sum(1 for _ in _common(alone.tolist(), ids.tolist())), 1)
        if end:
            ids = torch.cat([ids, ids.new_tensor([self.tokenizer.eos])])
        with torch.no_grad():
            scores = self.model(**inputs).logits[0, first - 1 : len(ids) - 1].float()
        labels = ids[first:]
        nats = torch.nn.functional.cross_entropy(scores, labels, reduction="none").double()
        return Likelihood(float(nats.sum()), len(labels), bool((scores.argmax(-1) == labels).all()))

    def _inputs(self, prompts: Sequence[Prompt]) -> dict[str, Any]:
        images = [_opened(data, number) for number, (_, of_prompt) in enumerate(prompts) for data in of_prompt]
        made = self.processor(text=[text for text, _ in prompts], images=images or None, return_tensors="pt")
        return {name: value.to(self.model.device) for name, value in made.items()}


class _Chosen:
    """Leaves one token to choose from: ours. Called by transformers with the tokens so far and the next scores."""

    def __init__(self, chooser: Chooser, growing: Sequence[Growing], prompt: int, vocabulary: int) -> None:
        self._chooser, self._growing, self._prompt = chooser, growing, prompt
        # The embedding table may have more rows than the tokenizer has pieces.
        self._vocabulary = vocabulary

    def __call__(self, input_ids: torch.Tensor, scores_BV: torch.Tensor) -> torch.Tensor:
        """Scores that are 0 for the chosen token of each row and -inf for all others."""
        made = input_ids.shape[1] - self._prompt
        chosen_B = self._chooser(scores_BV[:, : self._vocabulary], made)
        for answer, token in zip(self._growing, chosen_B.tolist(), strict=True):
            answer.add(token)
        only = torch.full_like(scores_BV, float("-inf"))
        return only.scatter_(1, chosen_B.to(only.device)[:, None], 0.0)

    def stops(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        """[B] whether all answers are over: rows go on together, what comes after an end is not looked at."""
        over = all(answer.ended for answer in self._growing)
        return torch.full((len(input_ids),), over, device=input_ids.device)


def _common(first: Sequence[int], second: Sequence[int]) -> Iterator[int]:
    """The tokens with which both begin."""
    for one, other in zip(first, second, strict=False):
        if one != other:
            return
        yield one


def _opened(data: bytes, prompt: int) -> Image.Image:
    try:
        image = Image.open(BytesIO(data))
        image.load()
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"prompt {prompt}: an image cannot be decoded ({error}); give a PNG, JPEG or WebP") from error
    return image
