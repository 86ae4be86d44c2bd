"""The manifest: every kind of damage is found and named, and verification is shared fairly among ranks."""

import json
from pathlib import Path

import pytest

from megatron_nmm.checkpoint import manifest
from megatron_nmm.checkpoint.manifest import Entry, Manifest
from megatron_nmm.errors import CheckpointError
from tests.checkpoint.folders import faults, save_bytes

CONTENT = {"__0_0.distcp": bytes(range(256)) * 40, "progress.json": b"{}"}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return save_bytes(tmp_path, 200, CONTENT)


def test_an_untouched_checkpoint_has_no_faults(checkpoint: Path) -> None:
    assert faults(checkpoint) == []


def test_a_file_cut_short_is_named_with_the_missing_bytes(checkpoint: Path) -> None:
    (checkpoint / "__0_0.distcp").write_bytes(CONTENT["__0_0.distcp"][:-1024])
    assert faults(checkpoint) == ["__0_0.distcp is 1,024 bytes shorter than its manifest says (10,240)"]


def test_a_file_grown_longer_is_named(checkpoint: Path) -> None:
    (checkpoint / "progress.json").write_bytes(b"{} ")
    assert faults(checkpoint) == ["progress.json is 1 bytes longer than its manifest says (2)"]


@pytest.mark.parametrize("place", [0, 5000, 10_239])
def test_one_flipped_bit_is_found_wherever_it_is(checkpoint: Path, place: int) -> None:
    content = bytearray(CONTENT["__0_0.distcp"])
    content[place] ^= 1
    (checkpoint / "__0_0.distcp").write_bytes(content)
    (fault,) = faults(checkpoint)
    assert fault.startswith("__0_0.distcp has changed since it was written")


def test_a_missing_file_is_named(checkpoint: Path) -> None:
    (checkpoint / "__0_0.distcp").unlink()
    assert faults(checkpoint) == ["__0_0.distcp is missing"]


def test_a_missing_manifest_is_named(checkpoint: Path) -> None:
    (checkpoint / manifest.NAME).unlink()
    with pytest.raises(CheckpointError, match=r"manifest\.json is missing"):
        manifest.read(checkpoint)


def test_a_manifest_cut_anywhere_is_refused(checkpoint: Path) -> None:
    text = (checkpoint / manifest.NAME).read_text()
    for length in range(len(text.rstrip())):
        (checkpoint / manifest.NAME).write_text(text[:length])
        with pytest.raises(CheckpointError, match="cannot be read"):
            manifest.read(checkpoint)


def test_no_flipped_byte_of_a_manifest_hides_damage(checkpoint: Path) -> None:
    """Whatever a flip makes of the manifest, a damaged file is never taken for intact."""
    (checkpoint / "__0_0.distcp").write_bytes(CONTENT["__0_0.distcp"][::-1])
    original = (checkpoint / manifest.NAME).read_bytes()
    for place in range(len(original)):
        flipped = bytearray(original)
        flipped[place] ^= 1
        (checkpoint / manifest.NAME).write_bytes(flipped)
        try:
            found = faults(checkpoint)
        except CheckpointError:
            continue
        assert found, f"flip at byte {place} of the manifest hid a damaged file"


@pytest.mark.parametrize(
    "tree",
    [
        [],
        {"format": 1, "step": 200},
        {"format": 2, "step": 200, "files": {}},
        {"format": 1, "step": 200, "files": {"../other": {"bytes": 1, "sha256": ""}}},
        {"format": 1, "step": 200, "files": {"/etc/passwd": {"bytes": 1, "sha256": ""}}},
    ],
)
def test_a_manifest_that_makes_no_sense_is_refused(checkpoint: Path, tree: object) -> None:
    (checkpoint / manifest.NAME).write_text(json.dumps(tree))
    with pytest.raises(CheckpointError, match=r"manifest\.json"):
        manifest.read(checkpoint)


@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_ranks_share_all_files_once(size: int) -> None:
    listed = Manifest(1, {f"f{index}": Entry(index % 4, "") for index in range(7)})
    dealt = [name for rank in range(size) for name in manifest.share(listed, rank, size)]
    assert sorted(dealt) == sorted(listed.files)
    assert max(map(len, (manifest.share(listed, rank, size) for rank in range(size)))) == -(-7 // size)
