"""Damaged folders and checkpoints are named and refused, in either direction, and nothing half-written stays."""

import json
import pickle
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from megatron_nmm.checkpoint import manifest, progress
from megatron_nmm.checkpoint.convert import to_hf as module
from megatron_nmm.checkpoint.convert.from_hf import from_hf
from megatron_nmm.checkpoint.convert.to_hf import to_hf
from megatron_nmm.checkpoint.hf_folder import INDEX
from megatron_nmm.checkpoint.manifest import Manifest
from megatron_nmm.errors import NMMError
from tests.checkpoint.convert import models
from tests.checkpoint.convert.synthetic import checkpoint_of
from tests.data.corpora import tokenizer
from tools import convert_checkpoint

RUN = models.run_of("sparse in part")
FIRST = "model-00001-of-00004.safetensors"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``run``, a checkpoint, and ``hf``, its export in four files."""
    root = tmp_path_factory.mktemp("made")
    checkpoint_of(RUN, root / "run")
    to_hf(root / "run", root / "hf", "native_multimodal", "stored", None, print, largest=60_000)
    assert (root / "hf" / FIRST).exists()
    return root


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    """Both, to be damaged."""
    shutil.copytree(made, tmp_path / "copy")
    return tmp_path / "copy"


def _listed(folder: Path, change: Callable[[dict[str, str]], object]) -> None:
    index = json.loads((folder / INDEX).read_text())
    change(index["weight_map"])
    (folder / INDEX).write_text(json.dumps(index))


def _configured(folder: Path, **changes: Any) -> None:
    raw = json.loads((folder / "config.json").read_text())
    raw = {key: value for key, value in {**raw, **changes}.items() if value != "absent"}
    (folder / "config.json").write_text(json.dumps(raw))


def _changed(folder: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    save_file(change(load_file(folder / FIRST)), folder / FIRST)


def _cut_short(folder: Path) -> None:
    (folder / FIRST).write_bytes((folder / FIRST).read_bytes()[:-10])


def _as_pickle(folder: Path) -> None:
    for path in (*folder.glob("*.safetensors"), folder / INDEX):
        path.unlink()
    torch.save({"model.norm.weight": torch.zeros(2)}, folder / "pytorch_model.bin")


def _with_another_tokenizer(folder: Path) -> None:
    shutil.copy(tokenizer(folder).path, folder / "tokenizer.model")
    _configured(folder, vocab_size=8)


EMBEDDING = "model.embed_tokens.weight"
FOLDERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a missing shard": (lambda folder: (folder / FIRST).unlink(), f"lacks {FIRST} of the 4 files its index lists"),
    "a truncated file": (_cut_short, f"{FIRST} cannot be read"),
    "an index that names absent tensors": (
        lambda folder: _listed(folder, lambda names: names.update({"model.ghost.weight": FIRST})),
        f"lists tensors that its files do not hold: model.ghost.weight (of {FIRST})",
    ),
    "a path outside": (
        lambda folder: _listed(folder, lambda names: names.update({EMBEDDING: "../secret.safetensors"})),
        "'../secret.safetensors', which is not a plain file name",
    ),
    "an absolute path": (
        lambda folder: _listed(folder, lambda names: names.update({EMBEDDING: "/etc/passwd"})),
        "'/etc/passwd', which is not a plain file name",
    ),
    "integers": (
        lambda folder: _changed(folder, lambda found: {**found, EMBEDDING: found[EMBEDDING].to(torch.int8)}),
        f"{EMBEDDING} holds I8, weights are F32, BF16, F16",
    ),
    "8-bit floats": (
        lambda folder: _changed(folder, lambda found: {**found, EMBEDDING: found[EMBEDDING].to(torch.float8_e4m3fn)}),
        f"{EMBEDDING} holds F8_E4M3",
    ),
    "fewer rows than its vocabulary": (
        lambda folder: _changed(folder, lambda found: {**found, EMBEDDING: found[EMBEDDING][:100].contiguous()}),
        f"{EMBEDDING} has shape (100, 32), embedding.word_embeddings.weight wants (128, 32)",
    ),
    "a tokenizer of another vocabulary": (_with_another_tokenizer, "and a model of 8 rows"),
    "pickled weights": (_as_pickle, "holds pytorch_model.bin, a pickle, which could run code"),
    "an unknown type": (lambda folder: _configured(folder, model_type="mamba"), "holds a model of type 'mamba'"),
    "a field that lacks": (lambda folder: _configured(folder, hidden_size="absent"), "KeyError: 'hidden_size'"),
    "a value of another kind": (lambda folder: _configured(folder, hidden_size="wide"), "model.width"),
    "no config.json": (lambda folder: (folder / "config.json").unlink(), "has no readable config.json"),
    "a tensor too many": (
        lambda folder: (
            _changed(folder, lambda found: {**found, "extra.weight": torch.zeros(2)}),
            _listed(folder, lambda names: names.update({"extra.weight": FIRST})),
        ),
        "extra.weight has no place in this model",
    ),
}
"""Damage to an export, and what the message says."""


@pytest.mark.parametrize("damage", FOLDERS)
def test_a_damaged_folder_is_refused(damage: str, copy: Path) -> None:
    act, told = FOLDERS[damage]
    act(copy / "hf")
    with pytest.raises(NMMError) as refused:
        from_hf(copy / "hf", copy / "deep/er/out", "stored", print)
    assert told in str(refused.value)
    assert sorted(path.name for path in copy.iterdir()) == ["hf", "run"]


def _flip(checkpoint: Path) -> None:
    file = checkpoint / "__0_0.distcp"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def _seal_again(checkpoint: Path) -> None:
    """What a forger does: a manifest for what lies there now."""
    names = [path for path in checkpoint.iterdir() if path.name != manifest.NAME]
    manifest.write(checkpoint, Manifest(1, {path.name: manifest.seal(path) for path in names}))


class _Code:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("was-run"),))


def _with_code(checkpoint: Path) -> None:
    (checkpoint / ".metadata").write_bytes(pickle.dumps(_Code()))
    _seal_again(checkpoint)


def _of_other_settings(checkpoint: Path, **changes: Any) -> None:
    reached = progress.read(checkpoint)
    model = {**reached.config["model"], **changes}  # type: ignore[dict-item]
    progress.write(checkpoint, replace(reached, config={**reached.config, "model": model}))
    _seal_again(checkpoint)


CHECKPOINTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a flipped bit": (_flip, "__0_0.distcp has changed since it was written"),
    "a missing file": (lambda checkpoint: (checkpoint / "__0_0.distcp").unlink(), "__0_0.distcp is missing"),
    "a step that is not its name's": (
        lambda checkpoint: manifest.write(checkpoint, Manifest(7, manifest.read(checkpoint).files)),
        "its manifest is of step 7",
    ),
    "code in its index": (_with_code, "which could run code"),
    "more layers in its settings": (
        lambda checkpoint: _of_other_settings(checkpoint, layers=3),
        "decoder.layers.2.input_layernorm.weight is missing",
    ),
    "fewer layers in its settings": (
        lambda checkpoint: _of_other_settings(checkpoint, layers=1),
        "decoder.layers.1.input_layernorm.weight is unexpected",
    ),
    "another width in its settings": (
        lambda checkpoint: _of_other_settings(checkpoint, width=64),
        "has shape (128, 32), the settings want (128, 64)",
    ),
}
"""Damage to a checkpoint, and what the message says."""


@pytest.mark.parametrize("damage", CHECKPOINTS)
def test_a_damaged_checkpoint_is_refused(damage: str, copy: Path) -> None:
    act, told = CHECKPOINTS[damage]
    act(copy / "run/checkpoints/step-00000001")
    with pytest.raises(NMMError) as refused:
        to_hf(copy / "run", copy / "out", "native_multimodal", "stored", None, print)
    assert told in str(refused.value) and not Path("was-run").exists()
    assert sorted(path.name for path in copy.iterdir()) == ["hf", "run"]


def test_counts_of_the_audit_are_told(copy: Path) -> None:
    _of_other_settings(copy / "run/checkpoints/step-00000001", layers=1)
    with pytest.raises(NMMError, match=r"13 mapped, 0 missing, 9 unexpected; nothing was written"):
        to_hf(copy / "run", copy / "out", "native_multimodal", "stored", None, print)


def test_a_tokenizer_of_another_vocabulary_is_refused(copy: Path) -> None:
    checkpoint = copy / "run/checkpoints/step-00000001"
    _of_other_settings(checkpoint, vocabulary=8)
    with pytest.raises(NMMError, match="it is of another vocabulary"):
        to_hf(copy / "run", copy / "out", "native_multimodal", "stored", tokenizer(copy), print)


def test_a_folder_with_something_in_it_is_not_touched(copy: Path) -> None:
    for work in (
        lambda: to_hf(copy / "run", copy / "hf", "native_multimodal", "stored", None, print),
        lambda: from_hf(copy / "hf", copy / "run", "stored", print),
    ):
        with pytest.raises(NMMError, match="exists and is not empty"):
            work()
    assert (copy / "hf" / FIRST).exists() and (copy / "run/checkpoints/step-00000001").exists()


@contextmanager
def _files_of_at_most(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_refuses_leaves_nothing(copy: Path) -> None:
    for work in (
        lambda: to_hf(copy / "run", copy / "out", "native_multimodal", "stored", None, print),
        lambda: from_hf(copy / "hf", copy / "out", "stored", print),
    ):
        with pytest.raises(NMMError, match="File too large; make room"), _files_of_at_most(50_000):
            work()
        assert sorted(path.name for path in copy.iterdir()) == ["hf", "run"]


def test_what_a_killed_attempt_left_is_cleared_away(copy: Path) -> None:
    (copy / ".out.partial").mkdir()
    (copy / ".out.partial/model.safetensors").write_bytes(b"half")
    module.to_hf(copy / "run", copy / "out", "native_multimodal", "stored", None, print)
    assert sorted(path.name for path in copy.iterdir()) == ["hf", "out", "run"]
    assert (copy / "out/model.safetensors").stat().st_size > 100_000


TEMPLATES: dict[str, tuple[str | None, str, str]] = {
    "absent": (None, "native_multimodal", "chat.jinja cannot be read ([Errno 2]"),
    "not Jinja": ("{% for m in messages %}\n{{ m.", "native_multimodal", "chat.jinja is not Jinja: line 2: "),
    "of a folder without processor": (
        "{{ messages }}",
        "qwen3",
        "a folder of family qwen3 without a tokenizer has none",
    ),
}
"""Content of the file, family, what is said."""


@pytest.mark.parametrize("fault", TEMPLATES)
def test_a_chat_template_that_cannot_be_is_refused(
    fault: str, copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content, family, told = TEMPLATES[fault]
    file = tmp_path / "chat.jinja"
    if content is not None:
        file.write_text(content)
    command = ["to-hf", str(copy / "run"), str(tmp_path / "out"), "--family", family, "--chat-template", str(file)]
    assert convert_checkpoint.main(command) == 2
    assert told in capsys.readouterr().err and not (tmp_path / "out").exists()
