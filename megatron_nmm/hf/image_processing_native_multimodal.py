"""Images to patches: what the model is given as ``pixel_values`` and ``image_grid_hw``."""

from typing import Any, ClassVar

import numpy as np
import torch
from transformers.feature_extraction_utils import BatchFeature
from transformers.image_processing_utils import BaseImageProcessor

from .image_rule import ImageRule
from .pixels import centre, flat, normalise, pad, patchify, resize, rgb


class NativeMultimodalImageProcessor(BaseImageProcessor):
    """Resize, pad, cut and normalise by the image rule that the model was trained with."""

    model_input_names: ClassVar[list[str]] = ["pixel_values", "image_grid_hw"]

    def __init__(
        self,
        image_rule: str = "square",
        patch_size: int = 14,
        merge_size: int = 1,
        image_size: int = 224,
        min_patches: int = 256,
        max_patches: int = 24_576,
        multi_scale: bool = False,
        do_center_crop: bool = False,
        image_mean: float = 0.5,
        image_std: float = 0.5,
        **kwargs: Any,
    ) -> None:
        """``do_center_crop``: under the square rule the largest square in the middle instead of the whole image.

        ValueError when ``image_size`` is no multiple of patch_size x merge_size.
        """
        super().__init__(**kwargs)
        self.image_rule = image_rule
        self.patch_size = patch_size
        self.merge_size = merge_size
        self.image_size = image_size
        self.min_patches = min_patches
        self.max_patches = max_patches
        self.multi_scale = multi_scale
        self.do_center_crop = do_center_crop
        self.image_mean = image_mean
        self.image_std = image_std
        unit = patch_size * merge_size
        if image_rule == "square" and image_size % unit:
            raise ValueError(
                f"image_size {image_size} is no multiple of {unit}; use {max(1, image_size // unit) * unit}"
            )

    @property
    def rule(self) -> ImageRule:
        """The rule as a value."""
        return ImageRule(
            self.image_rule,
            self.patch_size,
            self.merge_size,
            self.image_size,
            self.min_patches,
            self.max_patches,
            self.multi_scale,
        )

    def preprocess(self, images: Any, return_tensors: str | None = "pt", **_: Any) -> BatchFeature:
        """One image, or a list (nested or not) of them -> pixel_values [P, C * p * p] fp32, patches of all views in
        order; image_grid_hw [V, 2], rows and columns of patches of each view; views_per_image [I].

        ValueError for what is no image, or too thin a one.
        """
        patches, grids, counts = [], [], []
        for image in flat(images):
            pixels = rgb(image)
            if self.do_center_crop and self.image_rule == "square":
                pixels = centre(pixels)
            views = self.rule.views(*pixels.shape[:2])
            for view in views:
                side = self.patch_size
                padded = pad(resize(pixels, view.height, view.width), view.rows * side, view.columns * side)
                patches.append(normalise(patchify(padded, side, self.merge_size), self.image_mean, self.image_std))
                grids.append((view.rows, view.columns))
            counts.append(len(views))
        data = {
            "pixel_values": torch.from_numpy(np.concatenate(patches)),
            "image_grid_hw": torch.tensor(grids),
            "views_per_image": torch.tensor(counts),
        }
        return BatchFeature(data, tensor_type=return_tensors)
