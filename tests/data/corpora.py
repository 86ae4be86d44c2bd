"""Small raw data sets and corpora for the tests of the data plane."""

import io
import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from megatron_nmm.config.schema import DataConfig, EvaluateConfig, RunConfig, SourceConfig
from megatron_nmm.config.schema_model import ModelConfig, VisionConfig
from megatron_nmm.data.plan import PackSettings, plan_folder, write_plan
from megatron_nmm.data.rule import ImageRule, SquareRule
from megatron_nmm.data.settings import Settings
from megatron_nmm.data.tokenise import tokenise
from megatron_nmm.data.tokens import Tokenizer
from megatron_nmm.data.vocabulary import learn

WORDS = ("red", "green", "blue", "round", "square", "small", "large", "plus", "is", "a", "thing.")
VOCABULARY = 320
RULE = SquareRule(image_size=8, patch=4)
"""Four patches an image."""


def png(seed: int, side: int = 8) -> bytes:
    """A PNG of random colours."""
    pixels = np.random.RandomState(seed).randint(0, 256, size=(side, side, 3)).astype(np.uint8)
    return encode(Image.fromarray(pixels), "PNG")


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    """The image as the bytes of a file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@lru_cache(maxsize=4)
def model(seed: int = 0) -> bytes:
    """A SentencePiece model over WORDS; another seed gives another model."""
    words = [*WORDS, f"kind{seed}"]
    texts = [" ".join(np.random.RandomState(line).permutation(words)) for line in range(200)]
    return learn(texts * 2, VOCABULARY, "bpe", sample_limit=1000, threads=1)


def tokenizer(folder: Path, seed: int = 0) -> Tokenizer:
    """A tokenizer file in ``folder``, loaded."""
    path = folder / f"tokenizer-{seed}.model"
    path.write_bytes(model(seed))
    return Tokenizer(path)


def record(number: int, kind: str, images: Sequence[str] = (), words: int | None = None) -> dict[str, Any]:
    """A usable record: text of ``words`` words (default: 2 to 9 by number), image markers first and between."""
    chosen = [WORDS[(number + word) % len(WORDS)] for word in range(words or 2 + number % 8)]
    text = " ".join([*("<image> a" for _ in images), *chosen])
    return {"id": f"{kind}-{number}", "kind": kind, "text": text, "images": list(images)}


def mixed_records(count: int) -> list[dict[str, Any]]:
    """Records of all kinds; images named image-0.png to image-4.png."""
    kinds = ("text", "caption", "interleaved")
    names = [[], [0], [0, 1]]
    return [record(n, kinds[n % 3], [f"image-{(n + i) % 5}.png" for i in names[n % 3]]) for n in range(count)]


def write_jsonl(path: Path, records: Sequence[dict[str, Any]]) -> Path:
    """One record a line."""
    path.write_text("".join(json.dumps(values) + "\n" for values in records), encoding="utf-8")
    return path


def write_images(folder: Path, count: int = 5) -> None:
    """image-0.png and so on."""
    for number in range(count):
        (folder / f"image-{number}.png").write_bytes(png(number))


def settings(folder: Path, name: str = "corpus", seed: int = 0, rule: ImageRule = RULE) -> Settings:
    """Settings with a tokenizer and images under ``folder``."""
    return Settings(source=name, tokenizer=tokenizer(folder, seed), rule=rule, image_root=folder)


def corpus(folder: Path, name: str, records: Sequence[dict[str, Any]], length: int = 32) -> Path:
    """A packed corpus ``folder/name`` of these records."""
    write_images(folder)
    tokenise([write_jsonl(folder / f"{name}.jsonl", records)], folder / name, settings(folder, name), quiet)
    write_plan(folder / name, plan_folder(folder / name, length), PackSettings(length))
    return folder / name


def mixed_and_text(folder: Path, mixed: Sequence[dict[str, Any]], text: int = 20) -> Path:
    """``folder`` with two packed corpora: ``mixed`` of these records, and ``text`` of that many texts."""
    corpus(folder, "mixed", mixed)
    corpus(folder, "text", [record(1000 + n, "text") for n in range(text)])
    return folder


def quiet(done: int, total: int, samples: int) -> None:
    """A progress report that goes nowhere."""


def content(corpus: Path) -> dict[str, bytes]:
    """Every file of a corpus folder but its lock."""
    return {
        str(path.relative_to(corpus)): path.read_bytes()
        for path in sorted(corpus.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def run_config(folder: Path, sources: Sequence[tuple[str, float]], length: int = 32, **data: Any) -> RunConfig:
    """A run over corpora of ``folder`` given as (name, weight)."""
    values: dict[str, Any] = {
        "train": tuple(SourceConfig(str(folder / name), weight=weight) for name, weight in sources),
        "tokenizer": str(folder / "tokenizer-0.model"),
        "sequence_length": length,
        "microbatch": 2,
        "global_batch": 8,
        "image_size": RULE.image_size,
        "augment": False,
        "workers": 0,
    }
    return RunConfig(
        model=ModelConfig(vocabulary=VOCABULARY, vision=VisionConfig(patch=RULE.patch)),
        data=DataConfig(**(values | data)),
        evaluate=EvaluateConfig(packs=5),
    )
