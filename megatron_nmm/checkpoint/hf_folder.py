"""The tensors of a Hugging Face folder: safetensors files, one or several with an index, read one tensor at a time.

Only safetensors: the other formats of such folders are pickles, which can run code when they are read.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from megatron_nmm.config.values import read_json
from megatron_nmm.errors import CheckpointError

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
WEIGHTS = ("F32", "BF16", "F16")
"""Number formats that weights may have; others are packed or quantised, and mean nothing without their recipe."""
SHOWN = 3
"""Missing files named in a message."""


class HFFolder:
    """Names and shapes of all tensors, from the files' headers; values are read when they are asked for."""

    def __init__(self, folder: Path) -> None:
        """Raises CheckpointError when the folder holds no safetensors, lacks a shard, or a shard is damaged."""
        self.place = folder
        self._files: dict[str, Path] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._formats: dict[str, str] = {}
        listed = self._listed()
        for file in sorted(set(listed.values())):
            self._open_header(file)
        if lost := [f"{name} (of {file})" for name, file in listed.items() if name and name not in self._files]:
            raise CheckpointError(
                f"{folder / INDEX} lists tensors that its files do not hold: {', '.join(sorted(lost)[:SHOWN])}; fetch "
                "the folder again"
            )

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Tensor name -> shape."""
        return self._shapes

    @property
    def formats(self) -> Mapping[str, str]:
        """Tensor name -> number format as the header calls it, e.g. BF16."""
        return self._formats

    def read(self, name: str) -> torch.Tensor:
        """The tensor ``name``, whole, as it is stored. Raises CheckpointError when its file cannot be read."""
        try:
            with safe_open(self._files[name], framework="pt") as file:
                tensor: torch.Tensor = file.get_tensor(name)
                return tensor
        except (OSError, SafetensorError) as fault:
            raise CheckpointError(f"{self._files[name]} cannot be read ({fault}); fetch it again") from fault

    def _listed(self) -> dict[str, str]:
        """Tensor name -> file name by the index; without one, all tensors ("") are in the single file."""
        index = self.place / INDEX
        if not index.exists():
            self._require(SINGLE)
            return {"": SINGLE}
        try:
            listed = {str(name): str(file) for name, file in read_json(index.read_text("utf-8"))["weight_map"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as fault:
            raise CheckpointError(f"{index} is damaged ({type(fault).__name__}: {fault}); fetch it again") from fault
        if strange := sorted({file for file in listed.values() if Path(file).name != file}):
            raise CheckpointError(f"{index} names {strange[0]!r}, which is not a plain file name; fetch it again")
        if lost := sorted({file for file in listed.values() if not (self.place / file).is_file()}):
            more = f" and {len(lost) - SHOWN} more" if len(lost) > SHOWN else ""
            raise CheckpointError(
                f"{self.place} lacks {', '.join(lost[:SHOWN])}{more} of the {len(set(listed.values()))} files its "
                "index lists; fetch the folder again"
            )
        return listed

    def _require(self, name: str) -> None:
        if (self.place / name).is_file():
            return
        pickles = sorted(path.name for pattern in PICKLES for path in self.place.glob(pattern))
        found = f"it holds {pickles[0]}, a pickle, which could run code" if pickles else f"it has no {name} or {INDEX}"
        raise CheckpointError(
            f"{self.place} has no weights that can be read: {found}; use a folder of *.safetensors (save_pretrained "
            "writes them)"
        )

    def _open_header(self, name: str) -> None:
        path = self.place / name
        try:
            with safe_open(path, framework="pt") as file:
                for tensor in file.keys():  # noqa: SIM118  safe_open is no mapping
                    self._files[tensor] = path
                    header = file.get_slice(tensor)
                    self._shapes[tensor] = tuple(header.get_shape())
                    self._formats[tensor] = str(header.get_dtype())
        except (OSError, SafetensorError) as fault:
            raise CheckpointError(f"{path} cannot be read ({fault}); fetch it again") from fault
