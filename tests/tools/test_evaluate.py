"""tools/evaluate.py scores a real run's answers, on any number of ranks alike."""

import json
from pathlib import Path
from typing import Any

import pytest

from megatron_nmm.config import RunConfig
from megatron_nmm.verify.workers import WorkerPool
from tests.data.corpora import png
from tests.tools.ranks import said
from tests.train.runs import tiny_run, train_job
from tools.evaluate import main

ITEMS: list[dict[str, Any]] = [
    {"id": "a", "prompt": "red green", "references": ["blue"]},
    {"id": "b", "prompt": "<image> a", "images": ["1.png"], "references": ["round thing.", "square"]},
    {"id": "c", "prompt": "<image> plus <image> is", "images": ["1.png", "2.png"], "references": ["a"]},
    {"id": "d", "prompt": "small", "references": ["large"]},
    {"id": "e", "prompt": "<image>", "images": ["2.png"], "references": ["green plus"]},
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, pool: WorkerPool) -> RunConfig:
    """A run of three steps, two image files and the questions beside it."""
    folder = tmp_path_factory.mktemp("evaluate-tool")
    run = tiny_run(folder, steps=3)
    pool.run(1, train_job, run)
    for number in (1, 2):
        (folder / f"{number}.png").write_bytes(png(number))
    (folder / "questions.jsonl").write_text("".join(json.dumps(item) + "\n" for item in ITEMS))
    return run


def _arguments(run: RunConfig, *more: str) -> list[str]:
    data = str(Path(run.folder).parent / "questions.jsonl")
    return ["--model", run.folder, "--data", data, "--new-tokens", "4", "--rows", "2", *more]


def test_any_number_of_ranks_gives_the_same_results(trained: RunConfig, pool: WorkerPool, tmp_path: Path) -> None:
    results = []
    for size, layout in ((1, "tensor=1"), (2, "tensor=1"), (2, "tensor=2"), (4, "pipeline=2")):
        output = tmp_path / f"{size}-{layout}" / "scores.json"
        ranks = pool.run(size, said, main, _arguments(trained, "--output", str(output), "--set", f"parallel.{layout}"))
        assert [code for code, _, _ in ranks] == [0] * size
        assert [bool(out) for _, out, _ in ranks] == [True] + [False] * (size - 1)
        results.append(json.loads(output.read_text()))
    first = results[0]
    assert [item["id"] for item in first["items"]] == ["a", "b", "c", "d", "e"]
    assert list(first["means"]) == ["text", "caption", "interleaved", "all"]
    assert [row["items"] for row in first["means"].values()] == [2, 2, 1, 5]
    for other in results[1:]:
        assert [item["answer"] for item in other["items"]] == [item["answer"] for item in first["items"]]
        for kind, row in first["means"].items():
            assert other["means"][kind] == pytest.approx(row, rel=1e-5)
    out = pool.run(1, said, main, _arguments(trained, "--metric", "anls", "--most", "2"))[0][1]
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines() if line.startswith("│")]
    assert [row[:2] for row in rows] == [["text", "1"], ["caption", "1"], ["all", "2"]]
    assert all(len(row) == 5 for row in rows)


def test_a_benchmark_knows_its_file_and_score(trained: RunConfig, pool: WorkerPool, tmp_path: Path) -> None:
    (tmp_path / "gqa").mkdir()
    (tmp_path / "gqa" / "testdev_balanced.jsonl").write_text(json.dumps(ITEMS[0]))
    arguments = _arguments(trained, "--benchmark", "GQA", "--data", str(tmp_path), "--output", str(tmp_path / "o.json"))
    assert pool.run(1, said, main, arguments)[0][0] == 0
    assert list(json.loads((tmp_path / "o.json").read_text())["items"][0]["scores"]) == ["exact_match"]


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (("--data", "{folder}/none.jsonl"), "none.jsonl cannot be read"),
        (("--images", "{folder}/none"), "1.png cannot be read: No such file"),
        (("--benchmark", "COCO", "--data", "{folder}"), "coco/karpathy_test.jsonl cannot be read"),
        (("--stop", ""), "a stop string is empty"),
        (("--output", "{folder}/1.png/scores.json"), "scores.json cannot be written"),
        (("--model", "{folder}"), "is neither the folder of a run"),
    ],
)
def test_what_cannot_be_used_is_refused(more: tuple[str, ...], told: str, trained: RunConfig, pool: WorkerPool) -> None:
    folder = Path(trained.folder).parent
    arguments = _arguments(trained, *(word.format(folder=folder) for word in more))
    code, _, errors = pool.run(1, said, main, arguments)[0]
    assert code == 2
    assert told in errors and "Traceback" not in errors
