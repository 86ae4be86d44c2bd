"""Loading a checkpoint never runs code from it, even when its manifest is forged to match."""

import io
import pickle
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from megatron_nmm.checkpoint import manifest, safety
from megatron_nmm.errors import CheckpointError
from megatron_nmm.verify.layouts import SINGLE
from megatron_nmm.verify.workers import WorkerPool
from tests.checkpoint import jobs


class Payload:
    """Creates a file when unpickled without restriction."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.trace,)


@pytest.fixture(scope="module")
def run_folder(pool: WorkerPool, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with one checkpoint."""
    folder = tmp_path_factory.mktemp("run")
    pool.run(1, jobs.train_and_save, jobs.toy(SINGLE), folder, 1)
    return folder


def _forge_index(checkpoint: Path, trace: Path) -> None:
    (checkpoint / safety.INDEX).write_bytes(pickle.dumps(Payload(trace)))


def _forge_object(checkpoint: Path, trace: Path) -> None:
    """Put the payload where megatron-core looks for plain values, appended to the tensor file."""
    content = io.BytesIO()
    torch.save([Payload(trace)], content)
    with (checkpoint / "__0_0.distcp").open("ab") as stream:
        place = stream.tell()
        stream.write(content.getvalue())
    index = pickle.loads((checkpoint / safety.INDEX).read_bytes())  # noqa: S301
    for key, entry in index.storage_data.items():
        if key.fqn.startswith("common_state"):
            entry.offset, entry.length = place, len(content.getvalue())
    (checkpoint / safety.INDEX).write_bytes(pickle.dumps(index))


def _forge_legacy(checkpoint: Path, trace: Path) -> None:
    torch.save({"payload": Payload(trace)}, checkpoint / safety.LEGACY)


FORGERIES: dict[str, tuple[Callable[[Path, Path], None], str]] = {
    "index": (_forge_index, r"\.metadata asks to load pathlib\.Path\.touch, which could run code"),
    "object": (_forge_object, r"common_state/shard_0_1 in __0_0\.distcp is not plain data"),
    "legacy file": (_forge_legacy, r"common\.pt is a pickle of an older format"),
}


def _reseal(checkpoint: Path) -> None:
    """Make the manifest agree with the forged files, as a forger would."""
    files = {path.name: manifest.seal(path) for path in checkpoint.iterdir() if path.name != manifest.NAME}
    manifest.write(checkpoint, manifest.Manifest(1, files))


def _unguarded(place: Any, checkpoint: Path) -> None:
    """What megatron-core alone does with the folder."""
    from megatron.core.dist_checkpointing.serialization import load_common_state_dict

    with place.world(SINGLE.parallel), suppress(Exception):
        load_common_state_dict(str(checkpoint))


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_forged_checkpoint_is_refused_and_its_code_does_not_run(
    forgery: str, run_folder: Path, pool: WorkerPool, tmp_path: Path
) -> None:
    folder, trace = shutil.copytree(run_folder, tmp_path / "run"), tmp_path / "code-ran"
    checkpoint = folder / "checkpoints/step-00000001"
    forge, told = FORGERIES[forgery]
    forge(checkpoint, trace)
    _reseal(checkpoint)
    _, error, said = pool.run(1, jobs.try_to_resume, jobs.toy(SINGLE), folder)[0]
    assert not trace.exists(), "code from the checkpoint ran"
    assert "is refused, nothing of it was loaded" in error and said == []
    with pytest.raises(CheckpointError, match=told):
        safety.require_harmless(checkpoint, manifest.read(checkpoint).files)


def test_the_payload_is_real(run_folder: Path, tmp_path: Path) -> None:
    """Unrestricted unpickling, which is what torch does with an index, does run it: the test above can fail."""
    _forge_index(tmp_path, tmp_path / "code-ran")
    pickle.loads((tmp_path / safety.INDEX).read_bytes())  # noqa: S301
    assert (tmp_path / "code-ran").exists()


def test_every_name_an_honest_index_uses_is_allowed_and_nothing_else(run_folder: Path) -> None:
    checkpoint = run_folder / "checkpoints/step-00000001"
    safety.require_harmless(checkpoint, manifest.read(checkpoint).files)
    for harmful in (eval, exec, print, io.open, torch.load, pickle.loads, Path.unlink):
        with pytest.raises(CheckpointError, match="could run code"):
            safety._IndexReader(io.BytesIO(pickle.dumps(harmful))).load()


@pytest.mark.parametrize("content", [b"", b"garbage", pickle.dumps(3), pickle.dumps({"a": [1]})])
def test_an_index_that_is_none_is_refused(content: bytes, run_folder: Path, tmp_path: Path) -> None:
    checkpoint = shutil.copytree(run_folder / "checkpoints/step-00000001", tmp_path / "step-00000001")
    (checkpoint / safety.INDEX).write_bytes(content)
    with pytest.raises(CheckpointError, match="not an index"):
        safety.require_harmless(checkpoint, manifest.read(checkpoint).files)


def test_an_index_that_points_outside_its_folder_is_refused(run_folder: Path, tmp_path: Path) -> None:
    checkpoint = shutil.copytree(run_folder / "checkpoints/step-00000001", tmp_path / "step-00000001")
    index = pickle.loads((checkpoint / safety.INDEX).read_bytes())  # noqa: S301
    next(iter(index.storage_data.values())).relative_path = "../elsewhere.distcp"
    (checkpoint / safety.INDEX).write_bytes(pickle.dumps(index))
    with pytest.raises(CheckpointError, match=r"\.\./elsewhere\.distcp, which its manifest does not list"):
        safety.require_harmless(checkpoint, manifest.read(checkpoint).files)


def test_without_the_guard_megatron_core_would_have_run_it(run_folder: Path, pool: WorkerPool, tmp_path: Path) -> None:
    """Why safety.py exists; when this test fails, megatron-core has become safe by itself."""
    folder, trace = shutil.copytree(run_folder, tmp_path / "run"), tmp_path / "code-ran"
    _forge_object(folder / "checkpoints/step-00000001", trace)
    pool.run(1, _unguarded, folder / "checkpoints/step-00000001")
    assert trace.exists()
