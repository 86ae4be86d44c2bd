"""Chooses the image decoder of a run: the one asked for, or the fastest one installed."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal

from megatron_nmm.config.schema import DecoderName
from megatron_nmm.data.decoders.dali import DaliDecoder
from megatron_nmm.data.decoders.pillow import PillowDecoder
from megatron_nmm.data.decoders.protocol import Decoder
from megatron_nmm.data.decoders.simplejpeg_opencv import SimplejpegDecoder
from megatron_nmm.errors import ConfigError

Decode = Literal["exact", "fast"]
"""``data.decode``."""


@dataclass(frozen=True)
class _Choice:
    """What one decoder needs and how it is made."""

    modules: tuple[str, ...]
    extra: str
    """The extra of setup.py that installs them."""
    make: Callable[[bool, int | None], Decoder]
    """From (scaled, number of the GPU or None)."""


CHOICES: dict[str, _Choice] = {
    "simplejpeg": _Choice(("simplejpeg", "cv2"), "images", lambda scaled, gpu: SimplejpegDecoder(scaled)),
    "dali": _Choice(("nvidia.dali", "nvidia.nvimgcodec"), "dali", lambda scaled, gpu: DaliDecoder(scaled, gpu)),
    "pillow": _Choice((), "", lambda scaled, gpu: PillowDecoder(scaled)),
}
"""Fastest first, as measured by tools/bench_images.py on a CPU."""


def choose(name: DecoderName, decode: Decode, gpu: int | None = None) -> Decoder:
    """The decoder ``data.decoder`` and ``data.decode`` ask for; raises ConfigError when its library is missing.

    ``gpu``: number of the GPU this process may decode on, None = none; only ``dali`` makes use of it.
    """
    chosen = next(iter(installed())) if name == "auto" else name
    choice = CHOICES[chosen]
    missing = _missing(choice)
    if missing:
        raise ConfigError(
            f"data.decoder {name} needs {', '.join(missing)}, which is not installed; run "
            f"'pip install -e .[{choice.extra}]' or use data.decoder=auto"
        )
    return choice.make(decode == "fast", gpu)


def installed() -> list[DecoderName]:
    """Names of the decoders whose libraries are there, fastest first; Pillow is always among them."""
    names: tuple[DecoderName, ...] = ("simplejpeg", "dali", "pillow")
    return [name for name in names if not _missing(CHOICES[name])]


def _missing(choice: _Choice) -> list[str]:
    return [module for module in choice.modules if not _found(module)]


def _found(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        # The package around a dotted name is missing altogether.
        return False
