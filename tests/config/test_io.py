"""config.json: exact round trip, one clear message for each kind of damage, an old file survives a failed write."""

import errno
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from megatron_nmm.config import (
    DataConfig,
    EvaluateConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
    SourceConfig,
    VisionConfig,
)
from megatron_nmm.config.io import FORMAT_VERSION, from_dict, load, save, to_dict
from megatron_nmm.errors import ConfigError

RICH = RunConfig(
    name="näive run",
    folder='runs/"odd"\n',
    steps=2**31 - 1,
    model=ModelConfig(width=96, query_groups=4, ffn=None, norm_epsilon=5e-324, vision=VisionConfig(patch=4)),
    data=DataConfig(train=(SourceConfig("a", "plan", 0.1 + 0.2), SourceConfig("b", weight=1e-17)), augment=False),
    optim=OptimConfig(learning_rate=1 / 3, weight_decay=0.0, clip=1.7976931348623157e308),
    evaluate=EvaluateConfig(sources=(SourceConfig("c"),)),
)


@pytest.mark.parametrize("run", [RunConfig(), RICH])
def test_round_trip_is_exact(run: RunConfig, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "config.json"
    save(run, path)
    assert load(path) == run
    assert repr(load(path)) == repr(run)  # types too: == takes 1 for 1.0 and for True
    assert from_dict(to_dict(run)) == run
    assert os.listdir(path.parent) == ["config.json"]


def test_file_holds_the_version_and_every_key(tmp_path: Path) -> None:
    save(RunConfig(), tmp_path / "c.json")
    file = json.loads((tmp_path / "c.json").read_text())
    assert file["format_version"] == FORMAT_VERSION
    assert file["run"] == to_dict(RunConfig())
    assert file["run"]["model"]["vision"]["patch"] == 14


def test_whole_number_in_a_float_field_loads_as_float(tmp_path: Path) -> None:
    save(replace(RunConfig(), optim=OptimConfig(clip=2)), tmp_path / "c.json")
    clip = load(tmp_path / "c.json").optim.clip
    assert clip == 2.0
    assert type(clip) is float


def test_every_bad_key_is_listed_at_once() -> None:
    tree = to_dict(RICH)
    tree["modle"] = tree.pop("model")
    tree["optim"]["lr"] = tree["optim"].pop("learning_rate")
    tree["data"]["train"][1]["weight"] = "heavy"
    tree["steps"] = 1.5
    tree["device"] = "tpu"
    tree["save"] = 3
    with pytest.raises(ConfigError) as error:
        from_dict(tree, "runs/x/config.json")
    message = str(error.value)
    assert message.startswith("runs/x/config.json: 8 faults\n")
    for told in (
        "modle is not a key; the nearest key is model",
        "model is missing; add it",
        "optim.lr is not a key; the nearest key is optim.learning_rate",
        "optim.learning_rate is missing; add it; this version's default is 0.0015",
        'data.train.1.weight "heavy" is of the wrong kind; it expects a finite number',
        "steps 1.5 is of the wrong kind; it expects an integer",
        'device "tpu" is of the wrong kind; it expects auto, cpu or ',
        "save 3 is of the wrong kind; it expects a group with the keys every, keep",
    ):
        assert told in message


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"steps": True}, "steps true is of the wrong kind; it expects an integer"),
        ({"steps": None}, "steps null is of the wrong kind"),
        ({"steps": 2**70}, "is of the wrong kind; it expects an integer"),
        ({"name": 3}, "name 3 is of the wrong kind; it expects text"),
        ({"model": []}, "model [] is of the wrong kind"),
    ],
)
def test_wrong_kind_is_told(change: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError) as error:
        from_dict({**to_dict(RunConfig()), **change})
    assert told in str(error.value)


def test_tree_that_is_no_object() -> None:
    with pytest.raises(ConfigError, match="run 3 is of the wrong kind"):
        from_dict(3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "is damaged: not valid JSON: Expecting value at line 1, column 1"),
        (b'{"format_version": 1, "run": {', "is damaged: not valid JSON"),
        (b"\xff\xfe", "is damaged: not UTF-8 text"),
        (b"[" * 200_000, "is damaged: not valid JSON: nested too deeply"),
        (b"[1]", "is not a saved run: it needs the keys format_version and run"),
        (b'{"steps": 3}', "is not a saved run"),
        (b'{"format_version": 2, "run": {}}', "has format_version 2 and this version reads 1"),
        (b'{"format_version": 1, "format_version": 1, "run": {}}', "the key 'format_version' stands twice"),
        (b'{"format_version": 1, "run": NaN}', "NaN is not a finite number"),
        (b'{"format_version": 1, "run": 7}', "run 7 is of the wrong kind"),
    ],
)
def test_damaged_file_is_one_clear_message(content: bytes, told: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as error:
        load(path)
    assert told in str(error.value)
    assert str(path) in str(error.value)


def test_file_cut_short_at_any_byte_never_loads(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    save(RICH, path)
    whole = path.read_bytes()
    for length in range(0, len(whole) - 2, 97):
        path.write_bytes(whole[:length])
        with pytest.raises(ConfigError):
            load(path)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.json cannot be read: No such file"):
        load(tmp_path / "none.json")
    with pytest.raises(ConfigError, match=r"is a folder; use .*config\.json"):
        load(tmp_path)


def test_value_that_json_lacks_is_refused_and_writes_nothing(tmp_path: Path) -> None:
    run = replace(RunConfig(), optim=OptimConfig(clip=float("inf")))
    with pytest.raises(ConfigError, match="cannot be written as JSON"):
        save(run, tmp_path / "c.json")
    assert os.listdir(tmp_path) == []


def test_full_disk_keeps_the_earlier_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "c.json"
    save(RunConfig(), path)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ConfigError, match="No space left on device; make room"):
        save(RICH, path)
    assert load(path) == RunConfig()
    assert os.listdir(tmp_path) == ["c.json"]


def test_parent_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match="cannot be written"):
        save(RunConfig(), tmp_path / "file" / "c.json")
