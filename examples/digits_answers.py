"""What a trained digits model answers about images it has never seen, and how often it is right.

    python examples/digits_answers.py --run runs/digits/run --data runs/digits/data/raw

Loads the run's newest checkpoint into one process, whatever layout trained it, lets it finish held-out captions and
sums by greedy decoding, prints the accuracy and some answers, and draws a sheet of them into the run's folder.
"""

import argparse
import json
import sys
from dataclasses import dataclass
from io import BytesIO
from itertools import islice
from pathlib import Path
from statistics import median

from megatron_nmm.checkpoint.publish import name_of
from megatron_nmm.config.arguments import positive
from megatron_nmm.config.refusal import refuse
from megatron_nmm.errors import DataError, NMMError
from megatron_nmm.evaluate.opened import opened
from megatron_nmm.generate.contract import Decoding
from megatron_nmm.train import metrics

ANSWER_AFTER = {"caption": " handwritten", "interleaved": " is"}
"""The word after which each kind's answer, one number word, begins."""
NEW_TOKENS = 4
SHEET_COLUMNS, SHEET_ROWS = 6, 4


@dataclass(frozen=True)
class Question:
    """A held-out record cut before its answer."""

    prompt: str
    images: tuple[bytes, ...]
    answer: str


def questions(data: Path, kind: str, most: int) -> list[Question]:
    """The first ``most`` held-out records of ``kind`` as questions; DataError when they are not there."""
    found = []
    try:
        with (data / "held_out" / f"{kind}.jsonl").open() as lines:
            for record in map(json.loads, islice(lines, most)):
                before, word, after = record["text"].rpartition(ANSWER_AFTER[kind])
                images = tuple((data / path).read_bytes() for path in record["images"])
                found.append(Question(before + word, images, after.strip(" .")))
    except OSError as error:
        raise DataError(
            f"{error.filename} cannot be read: {error.strerror}; give --data the folder examples/data/digits.py wrote"
        ) from error
    return found


def answers(folder: Path, asked: dict[str, list[Question]]) -> tuple[dict[str, list[str]], int]:
    """The model's first word after each prompt, by kind, and the step of the checkpoint it was loaded from."""
    said = {}
    with opened(folder) as found:
        print(f"checkpoint of step {found.step} loaded into one process")
        for kind, questions in asked.items():
            prompts = [(question.prompt, question.images) for question in questions]
            texts = [answer.text for answer in found.model.answers(prompts, Decoding(NEW_TOKENS))]
            said[kind] = [text.strip(" .").partition(".")[0].strip() for text in texts]
    return said, found.step


def draw(asked: list[Question], said: list[str], file: Path) -> None:
    """A sheet of questions with their images and the model's answers, wrong ones in red."""
    import matplotlib

    matplotlib.use("Agg")
    import numpy as np
    from matplotlib import pyplot
    from PIL import Image

    figure, axes = pyplot.subplots(SHEET_ROWS, SHEET_COLUMNS, figsize=(2.2 * SHEET_COLUMNS, 1.7 * SHEET_ROWS))
    cells = list(axes.flat)
    for cell in cells:
        cell.axis("off")
    for cell, question, text in zip(cells, asked, said, strict=False):
        images = [np.asarray(Image.open(BytesIO(data)).convert("L")) for data in question.images]
        gap = np.full((images[0].shape[0], 4), 255, dtype=np.uint8)
        cell.imshow(np.hstack([part for image in images for part in (image, gap)][:-1]), cmap="gray", vmin=0, vmax=255)
        right = text == question.answer
        title = text if right else f"{text} ({question.answer})"
        cell.set_title(title, color="black" if right else "crimson", fontsize=11)
    figure.suptitle("Sums of held-out digits; wrong answers in red, the truth in brackets")
    figure.tight_layout()
    figure.savefig(file, dpi=110)
    pyplot.close(figure)


def report(asked: dict[str, list[Question]], said: dict[str, list[str]]) -> None:
    """Accuracy of each kind and a few answers word for word."""
    for kind, items in asked.items():
        right = sum(q.answer == text for q, text in zip(items, said[kind], strict=True))
        label = "held-out digits named" if kind == "caption" else "held-out sums right"
        print(f"{label}: {right / len(items):.1%} ({right} of {len(items)})")
    for question, text in list(zip(asked["interleaved"], said["interleaved"], strict=True))[:3]:
        print(f'  "{question.prompt}" -> "{text}" (truth: {question.answer})')


def where(folder: Path, step: int, sheet: Path) -> None:
    """Speed of the run and where everything it wrote is."""
    rates = [r["tokens_per_second"] for r in metrics.read(folder / metrics.NAME) if r["event"] == "step"]
    if rates:
        print(f"training speed: {median(rates):,.0f} tokens/s (median step)")
    for label, path in (
        ("checkpoint", folder / "checkpoints" / name_of(step)),
        ("metrics", folder / metrics.NAME),
        ("loss plot", folder / "loss.png"),
        ("answers", sheet),
    ):
        print(f"{label:>12}: {path}")


def main() -> int:
    """Answer, count, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="run folder with config.json and checkpoints")
    parser.add_argument("--data", type=Path, required=True, help="folder written by examples/data/digits.py")
    parser.add_argument("--most", type=positive, default=400, metavar="N", help="questions of each kind (default 400)")
    options = parser.parse_args()
    try:
        asked = {kind: questions(options.data, kind, options.most) for kind in ANSWER_AFTER}
        said, step = answers(options.run, asked)
    except NMMError as error:
        return refuse(error)
    report(asked, said)
    sheet = options.run / "answers.png"
    draw(asked["interleaved"], said["interleaved"], sheet)
    where(options.run, step, sheet)
    return 0


if __name__ == "__main__":
    sys.exit(main())
