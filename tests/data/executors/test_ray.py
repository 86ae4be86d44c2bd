"""A real local Ray cluster writes the bytes that one process writes, and tells faults as values."""

from pathlib import Path

import pytest

from megatron_nmm.data.executors.ray import RayExecutor
from megatron_nmm.data.tokenise import tokenise
from megatron_nmm.errors import ConfigError, DataError
from tests.data.corpora import quiet, settings
from tests.data.executors.corpora_of_units import UNIT_BYTES, corpus_by, inputs


def test_a_local_cluster_changes_no_byte_and_names_faults(tmp_path: Path) -> None:
    import ray

    executor = RayExecutor(workers=2)
    # One cluster for both: it is the executor's to start only where there is none.
    executor._connect()
    try:
        assert corpus_by(tmp_path, "ray", executor) == corpus_by(tmp_path, "here", None)
        assert ray.is_initialized()
        paths = inputs(tmp_path)
        paths[1].write_text('{"nothing": "known"}\n')
        with pytest.raises(DataError, match=r"b\.jsonl: the schema does not fit: .* name its fields with --schema"):
            tokenise(paths, tmp_path / "fault", settings(tmp_path), quiet, executor, UNIT_BYTES)
        assert (tmp_path / "fault" / "shards" / "00000" / "shard.json").is_file()
    finally:
        ray.shutdown()


def test_without_ray_the_message_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("megatron_nmm.data.executors.ray.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"run: pip install -e \.\[ray\]"):
        RayExecutor(workers=2)
