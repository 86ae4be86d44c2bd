"""A model that answers without weights, for tests of those who ask."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from megatron_nmm.data.prompt import Prompt, require_images
from megatron_nmm.generate.contract import Answer, Decoding, Likelihood, Listener


@dataclass
class Parrot:
    """Says what ``reply`` makes of a text and its images; a continuation costs one nat a letter, two without images."""

    reply: Callable[[str, Sequence[bytes]], str] = lambda text, images: text
    asked: list[tuple[Prompt, Decoding]] = field(default_factory=list)
    measured: list[tuple[Prompt, str, bool]] = field(default_factory=list)

    def answers(self, prompts: Sequence[Prompt], decoding: Decoding, listen: Listener | None = None) -> list[Answer]:
        """The replies."""
        require_images(prompts)
        self.asked += [(prompt, decoding) for prompt in prompts]
        return [Answer(self.reply(text, images), (1,), "eos") for text, images in prompts]

    def likelihoods(self, pairs: Sequence[tuple[Prompt, str]], *, end: bool = False) -> list[Likelihood]:
        """The cost of letters."""
        self.measured += [(prompt, text, end) for prompt, text in pairs]
        return [
            Likelihood(len(text) * (1.0 if images else 2.0), len(text) + int(end), text.startswith(" "))
            for (_, images), text in pairs
        ]
