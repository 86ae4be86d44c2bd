"""Progress survives as JSON, and nonsense in its place is one clear error."""

from pathlib import Path

import pytest

from megatron_nmm.checkpoint import progress
from megatron_nmm.checkpoint.progress import Progress
from megatron_nmm.errors import CheckpointError


def test_progress_comes_back_equal(tmp_path: Path) -> None:
    reached = Progress(step=3, consumed=24, config={"model": {"width": 64}, "seed": 1, "name": "run"})
    progress.write(tmp_path, reached)
    assert progress.read(tmp_path) == reached


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"step": 1, "consumed": "x", "config": {}}', '{"step": null}'])
def test_nonsense_is_refused_with_its_path(tmp_path: Path, text: str) -> None:
    (tmp_path / progress.NAME).write_text(text)
    with pytest.raises(CheckpointError, match=r"progress\.json cannot be read"):
        progress.read(tmp_path)
