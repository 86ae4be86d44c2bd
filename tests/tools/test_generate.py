"""tools/generate.py answers from a real run's checkpoint, the same in every layout, and refuses what it cannot use."""

from collections.abc import Callable
from pathlib import Path

import pytest

from megatron_nmm.config import RunConfig
from megatron_nmm.verify.workers import WorkerPool
from tests.data.corpora import png
from tests.tools.ranks import Said, alone, said
from tests.train.runs import tiny_run, train_job
from tools.generate import main


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, pool: WorkerPool) -> RunConfig:
    """A run of three steps and two image files beside it."""
    folder = tmp_path_factory.mktemp("generate-tool")
    run = tiny_run(folder, steps=3)
    pool.run(1, train_job, run)
    for number in (1, 2):
        (folder / f"{number}.png").write_bytes(png(number))
    return run


def _asked(run: RunConfig, *more: str) -> list[str]:
    folder = Path(run.folder).parent
    images = [word for number in (1, 2) for word in ("--image", str(folder / f"{number}.png"))]
    prompt = ["--prompt", "<image> plus <image> is", "--new-tokens", "6"]
    return ["--model", run.folder, *prompt, *images, *more]


@pytest.fixture(scope="module")
def ask(trained: RunConfig, pool: WorkerPool) -> Callable[..., list[Said]]:
    """The tool on that many ranks, with more arguments."""

    def ask(size: int, *more: str) -> list[Said]:
        return pool.run(size, said, main, _asked(trained, *more))

    return ask


def test_every_layout_answers_alike_and_one_process_speaks(ask: Callable[..., list[Said]]) -> None:
    drawn = ("--temperature", "1.5", "--top-p", "0.9", "--seed", "3")
    ((code, text, told),) = ask(1, *drawn)
    assert code == 0 and text.strip()
    assert "step 3 of" in told and "6 tokens in" in told and "ended by the limit of --new-tokens" in told
    for layout in (("--set", "parallel.tensor=2"), ("--set", "parallel.pipeline=2"), ()):
        main_rank, other = ask(2, *drawn, *layout)
        assert main_rank[:2] == (0, text)
        assert other == (0, "", "")


def test_a_stream_is_the_answer_and_a_stop_string_ends_it(ask: Callable[..., list[Said]]) -> None:
    ((_, text, _),) = ask(1)
    assert ask(1, "--stream")[0][1] == text
    middle = text.strip()[1:3]
    ((_, shorter, told),) = ask(1, "--stop", middle)
    assert shorter.rstrip("\n") == text[: text.index(middle)]
    assert "ended by a stop string" in told


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (("--image", "{folder}/1.png"), "prompt 0 has 2 <image> markers but 3 images; give one image for each marker"),
        (("--image", "{folder}/none.png"), "none.png cannot be read: No such file or directory"),
        (("--model", "{folder}"), "is neither the folder of a run (checkpoints/ inside) nor an export"),
        (("--model", "{folder}/absent"), "is neither the folder of a run"),
        (("--top-p", "2"), "top_p 2.0 is no probability"),
        (("--set", "parallel.tensor=3"), "tensor"),
        (("--set", "parallel.tensr=2"), "nearest key is parallel.tensor"),
        (("--set", "parallel.tensor=2"), "needs 2 processes, this is one"),
        (("--prompt", "<image> <image>" + " red" * 200), "tokens, a row holds 1 to"),
    ],
)
def test_what_cannot_be_used_is_refused(more: tuple[str, ...], told: str, trained: RunConfig, pool: WorkerPool) -> None:
    folder = Path(trained.folder).parent
    arguments = _asked(trained, *(word.format(folder=folder) for word in more))
    if "needs 2" in told:
        code, out, errors = pool.run(1, alone, main, arguments)[0]
    else:
        code, out, errors = pool.run(1, said, main, arguments)[0]
    assert (code, out) == (2, "")
    assert told in errors and "Traceback" not in errors
