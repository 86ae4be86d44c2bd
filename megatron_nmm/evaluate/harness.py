"""Lets EleutherAI's lm-evaluation-harness ask a model that answers: ``simple_evaluate(model=harness_model(model))``."""

from collections.abc import Sequence
from io import BytesIO
from itertools import groupby
from typing import Any

from megatron_nmm.data.prompt import Prompt
from megatron_nmm.errors import ConfigError
from megatron_nmm.generate.contract import AnsweringModel, Decoding

NEW_TOKENS = 256
"""Of an answer whose task sets no limit."""


class HarnessCalls:
    """The three calls of the harness's LM; its requests carry ``args``, and images as ``{"visual": [...]}`` last."""

    MULTIMODAL = True

    def __init__(self, model: AnsweringModel) -> None:
        super().__init__()
        self.model = model

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """(log probability, whether greedy) of each (context, continuation). Of a continuation behind nothing, the
        first token is not counted: models here are trained without a token that begins texts."""
        pairs = [(_prompt(request.args), request.args[1]) for request in requests]
        return [(-one.nats, one.greedy) for one in self.model.likelihoods(pairs)]

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Log probability of each (text,), but for its first token; DataError for one longer than the model's rows."""
        pairs: list[tuple[Prompt, str]] = [(("", ()), request.args[0]) for request in requests]
        return [-one.nats for one in self.model.likelihoods(pairs)]

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """The answer to each (context, settings); requests of equal settings run together."""
        found: dict[int, str] = {}
        keyed = sorted((repr(_decoding(request.args[1])), number) for number, request in enumerate(requests))
        for _, group in groupby(keyed, key=lambda pair: pair[0]):
            numbers = [number for _, number in group]
            decoding = _decoding(requests[numbers[0]].args[1])
            answers = self.model.answers([_prompt(requests[number].args) for number in numbers], decoding)
            found.update(zip(numbers, (answer.text for answer in answers), strict=True))
        return [found[number] for number in range(len(requests))]


def harness_model(model: AnsweringModel) -> Any:
    """An ``lm_eval.api.model.LM`` around ``model``; ConfigError where the package is not installed."""
    try:
        from lm_eval.api.model import LM
    except ImportError as error:
        raise ConfigError(f"lm-evaluation-harness cannot be imported ({error}); pip install lm-eval") from error
    return type("NativeMultimodalLM", (HarnessCalls, LM), {})(model)


def _decoding(settings: dict[str, Any]) -> Decoding:
    until = settings.get("until") or ()
    drawn = bool(settings.get("do_sample", settings.get("temperature", 0) > 0))
    return Decoding(
        new_tokens=int(settings.get("max_gen_toks") or settings.get("max_new_tokens") or NEW_TOKENS),
        temperature=float(settings.get("temperature", 1.0)) if drawn else 0.0,
        top_p=float(settings.get("top_p", 1.0)) if drawn else 1.0,
        stop=(until,) if isinstance(until, str) else tuple(text for text in until if text),
    )


def _prompt(arguments: Sequence[Any]) -> Prompt:
    """The context of a request with its images, which the harness holds decoded."""
    visual = arguments[2].get("visual", ()) if len(arguments) > 2 else ()
    return arguments[0], tuple(_png(image) for image in visual)


def _png(image: Any) -> bytes:
    buffer = BytesIO()
    image.convert("RGB").save(buffer, "PNG")
    return buffer.getvalue()
