"""CIDEr-D: how much a caption says of what people say about an image (Vedantam et al., arXiv 1411.5726, sections 4, 6).

Captions are counts of their 1- to 4-grams, weighted by how few images' references hold each (TF-IDF). As in the public
evaluation server, counts are not divided by the length of the caption: clipping makes that differ from equation 1, and
published figures come from there. Its tokenizer needs Java; ``words`` does what that does to plain captions.
"""

import math
import re
from collections import Counter
from collections.abc import Sequence

ORDERS = range(1, 5)
SIGMA = 6.0
"""Words of difference in length that a caption is forgiven, as the width of a bell curve."""
SCALE = 10.0

Gram = tuple[str, ...]


def cider(answers: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """The score of each answer against its references, 0 to 10; their mean is CIDEr, usually given times 100.

    All images of a benchmark must come in one call: a weight is log(images / images whose references have the n-gram),
    and so 0 for everything where there is one image alone.
    """
    counted = [[_grams(reference) for reference in of_image] for of_image in references]
    seen = Counter(gram for of_image in counted for gram in set().union(*of_image))
    images = math.log(max(len(references), 1))

    def weighted(grams: Counter[Gram]) -> dict[Gram, float]:
        return {gram: count * (images - math.log(max(seen[gram], 1))) for gram, count in grams.items()}

    scores: list[float] = []
    for answer, of_image in zip(answers, counted, strict=True):
        said = weighted(_grams(answer))
        each = [
            _similarity(said, weighted(reference)) * _bell(answer, text)
            for reference, text in zip(of_image, references[len(scores)], strict=True)
        ]
        scores.append(SCALE * sum(each) / len(each))
    return scores


def words(text: str) -> list[str]:
    """Lower-case words and numbers; punctuation separates and is left out, but inside of words and numbers."""
    return re.findall(r"\w+(?:[-'.,\u2019]\w+)*", text.lower())


def _grams(text: str) -> Counter[Gram]:
    of = words(text)
    return Counter(tuple(of[first : first + n]) for n in ORDERS for first in range(len(of) - n + 1))


def _similarity(said: dict[Gram, float], reference: dict[Gram, float]) -> float:
    """Mean over n of the cosine between n-gram vectors, what is said more often than in the reference clipped."""
    return sum(_cosine(_of_order(said, n), _of_order(reference, n)) for n in ORDERS) / len(ORDERS)


def _of_order(vector: dict[Gram, float], n: int) -> dict[Gram, float]:
    return {gram: weight for gram, weight in vector.items() if len(gram) == n}


def _cosine(said: dict[Gram, float], reference: dict[Gram, float]) -> float:
    product = sum(min(weight, reference.get(gram, 0.0)) * reference.get(gram, 0.0) for gram, weight in said.items())
    lengths = math.hypot(*said.values()) * math.hypot(*reference.values())
    return product / lengths if lengths else 0.0


def _bell(answer: str, reference: str) -> float:
    return math.exp(-((len(words(answer)) - len(words(reference))) ** 2) / (2 * SIGMA**2))
