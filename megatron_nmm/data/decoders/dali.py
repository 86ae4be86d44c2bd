"""The decoder of NVIDIA DALI (its image library, nvImageCodec): JPEG on the CPU or on a GPU, Pillow for the rest.

Taken by DALI, decided from the header: JPEGs with 1 or 3 components that end as a JPEG must (it would print to the
console about torn ones). It drops transparency and knows no animations, so every other kind, and any file it refuses,
goes to Pillow. One image at a time: in a batch of a DALI pipeline one bad image takes the others with it. On the CPU
pixels are bit-identical to Pillow's; a GPU's cosine transform rounds differently. A JPEG with damaged bytes inside may
decode here where Pillow refuses it. Images always come at full size.
"""

import threading
from typing import Any

import numpy as np

from megatron_nmm.data.decoders.header import JPEGS, open_image, orientation
from megatron_nmm.data.decoders.pillow import PillowDecoder
from megatron_nmm.data.decoders.protocol import Least, Pixels
from megatron_nmm.data.decoders.upright import upright

_END_OF_IMAGE = b"\xff\xd9"
_SMOOTH = ":fancy_upsampling=1"
"""Chroma upsampled as Pillow does it."""


class DaliDecoder:
    """JPEG by DALI's image library, the rest by Pillow."""

    name = "dali"

    def __init__(self, scaled: bool = False, gpu: int | None = None) -> None:
        """``gpu``: number of the GPU that decodes, None = the CPU; raises ImportError when DALI is missing."""
        from nvidia import nvimgcodec

        self._library = nvimgcodec
        self._gpu = gpu
        self._reference = PillowDecoder(scaled)
        # A decoder of the library serves one thread; nothing says that it may be shared.
        self._own = threading.local()
        self._parameters = nvimgcodec.DecodeParams(apply_exif_orientation=False, color_spec=nvimgcodec.ColorSpec.SRGB)

    def describe(self) -> str:
        """DALI's image library and Pillow with their versions, and where JPEGs are decoded."""
        place = "CPU" if self._gpu is None else f"GPU {self._gpu}"
        return (
            f"DALI nvImageCodec {self._library.__version__} on the {place} (JPEG), {self._reference.describe()} (rest)"
        )

    def decode(self, encoded: bytes, least: Least | None = None) -> Pixels:
        """RGB pixels of one image; raises DataError when it is damaged, too large or of an unknown kind."""
        with open_image(encoded) as image:
            wanted = image.format in JPEGS and image.mode in ("L", "RGB") and encoded.endswith(_END_OF_IMAGE)
            if wanted:
                turn = orientation(image, encoded)
                decoded = self._decoder().decode(encoded, params=self._parameters)
                if decoded is not None:
                    pixels = np.asarray(decoded.cpu())
                    if pixels.shape == (image.height, image.width, 3):
                        return upright(pixels, turn)
            return self._reference.decode_opened(image, encoded, least)

    def _decoder(self) -> Any:
        """This thread's decoder."""
        if not hasattr(self._own, "decoder"):
            library = self._library
            if self._gpu is None:
                backends = [library.Backend(library.BackendKind.CPU_ONLY)]
                device = library.NVIMGCODEC_DEVICE_CPU_ONLY
                self._own.decoder = library.Decoder(device, max_num_cpu_threads=1, backends=backends, options=_SMOOTH)
            else:
                self._own.decoder = library.Decoder(self._gpu, max_num_cpu_threads=1, options=_SMOOTH)
        return self._own.decoder
