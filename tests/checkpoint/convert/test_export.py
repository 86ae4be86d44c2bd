"""Exports of this package's own models: proved by their card, loaded by the auto classes, answering as trained."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from megatron_nmm.checkpoint.convert import card
from megatron_nmm.checkpoint.convert.exported import OPENERS
from megatron_nmm.checkpoint.convert.prove import proof
from megatron_nmm.checkpoint.convert.to_hf import to_hf
from megatron_nmm.checkpoint.resume import load_weights
from megatron_nmm.config import RunConfig
from megatron_nmm.data.prompt import prompt_batch
from megatron_nmm.data.tokens import Tokenizer
from megatron_nmm.generate.answer import answer
from megatron_nmm.models.build import build
from megatron_nmm.verify.workers import Place, WorkerPool
from tests.checkpoint.convert import models
from tests.checkpoint.convert.synthetic import checkpoint_of
from tests.data import corpora

NEW_TOKENS = 6
TEMPLATE = (
    "{% for m in messages %}{% for part in m.content %}"
    "{{ part.text if part.type == 'text' else '<image>' }}{% endfor %}{% endfor %}"
)
PROMPTS = (("<image> a red", (corpora.png(1),)), ("green plus", ()), ("<image> and <image>", (corpora.png(2),) * 2))
FORMS = ("early", "late", "late, gated with biases", "NaViL of Qwen3", "NaViL of InternLM2", "sparse")


def _run(form: str, folder: Path) -> RunConfig:
    """One process, fp32, a tokenizer of its own, rows long enough for a few images."""
    run = models.alone(models.run_of(form))
    data = replace(run.data, tokenizer=str(corpora.tokenizer(folder).path), sequence_length=256, decoder="pillow")
    model = replace(run.model, vocabulary=corpora.VOCABULARY + 8)
    return replace(run, precision=replace(run.precision, dtype="fp32"), data=data, model=model)


def _export(place: Place, run: RunConfig, folder: Path, dtype: str) -> list[str]:
    """In a worker: proof opens a world of its own."""
    said: list[str] = []
    tokenizer = Tokenizer(run.data.tokenizer)
    finish = proof(folder / "run", "native_multimodal", dtype, tokenizer, chat_template=TEMPLATE)
    to_hf(folder / "run", folder / "out", "native_multimodal", dtype, tokenizer, said.append, finish)
    return said


def _trained(place: Place, run: RunConfig, folder: Path) -> tuple[list[str], torch.Tensor]:
    """Answers to the prompts, and the scores of the first."""
    tokenizer = Tokenizer(run.data.tokenizer)
    with place.world(run.parallel) as world:
        model: Any = build(run, world)
        load_weights(folder, model, world, lambda line: None)
        batch = prompt_batch(run, tokenizer, PROMPTS[:1])
        with torch.no_grad():
            scores = model.module(batch, logits=True)[0, : int(batch.document_starts[0, 1])]
        return answer(model, run, tokenizer, PROMPTS, world, NEW_TOKENS), scores


@pytest.mark.parametrize("form", FORMS)
def test_an_export_answers_as_the_trained_model(form: str, pool: WorkerPool, tmp_path: Path) -> None:
    run = _run(form, tmp_path)
    special = Tokenizer(run.data.tokenizer).special.values()
    checkpoint_of(run, tmp_path / "run", [*special, *range(corpora.VOCABULARY, run.model.vocabulary)])
    pool.run(1, _export, run, tmp_path, "stored")
    found = card.verify(tmp_path / "out", OPENERS)
    assert [one.probe for one in found.comparisons] == ["text", "one image", "two images"]
    assert all(one.passes for one in found.comparisons) and found.comparisons[2].patches > 0
    names = {"tokenizer.model", "tokenizer.json", "processor_config.json", "modeling_native_multimodal.py"}
    assert names < found.files.keys()

    answers, scores = pool.run(1, _trained, run, tmp_path / "run")[0]
    processor = AutoProcessor.from_pretrained(tmp_path / "out")
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "out").eval()
    assert [_answer(model, processor, prompt, run) for prompt in PROMPTS] == answers
    chat = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": " a red"}]}]
    assert processor.apply_chat_template(chat) == PROMPTS[0][0]
    with torch.no_grad():
        again = model(**_inputs(processor, PROMPTS[0])).logits[0]
    assert (again - scores).abs().max() <= 1e-5 * scores.abs().max()


def _inputs(processor: Any, prompt: tuple[str, tuple[bytes, ...]]) -> Any:
    images = [Image.open(io.BytesIO(content)) for content in prompt[1]]
    return processor(images=images or None, text=prompt[0])


def _answer(model: Any, processor: Any, prompt: tuple[str, tuple[bytes, ...]], run: RunConfig) -> str:
    tokenizer = Tokenizer(run.data.tokenizer)
    inputs = _inputs(processor, prompt)
    made = model.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False)
    return tokenizer.decode(made[0, inputs["input_ids"].shape[1] :].tolist())


def test_a_rounded_export_is_held_against_the_rounded_model(pool: WorkerPool, tmp_path: Path) -> None:
    run = _run("sparse", tmp_path)
    checkpoint_of(run, tmp_path / "run")
    pool.run(1, _export, run, tmp_path, "bf16")
    assert all(one.passes for one in card.verify(tmp_path / "out", OPENERS).comparisons)


def test_one_changed_weight_of_the_image_part_is_noticed(pool: WorkerPool, tmp_path: Path) -> None:
    """Text alone would not show it."""
    run = _run("late, gated with biases", tmp_path)
    checkpoint_of(run, tmp_path / "run")
    pool.run(1, _export, run, tmp_path, "stored")
    from safetensors.torch import load_file, save_file

    weights = load_file(tmp_path / "out/model.safetensors")
    weights["model.connector.linear.weight"][3, 5] *= -1
    save_file(weights, tmp_path / "out/model.safetensors", {"format": "pt"})
    exported = OPENERS["native_multimodal"](tmp_path / "out")
    text, one, two = sorted(card.compare(tmp_path / "out", exported), key=lambda found: found.patches)
    assert text.passes and not one.passes and not two.passes
