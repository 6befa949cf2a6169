"""The score ladder's rungs: known damage done to real images, to see what each score notices.

Every function takes and gives bytes of shape (n, channels, height, width), but `without_digit`, which takes a split.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.nn import functional as F

from .data import Split
from .training import generator


def blur(images: UInt8[Tensor, "n c h w"], sd: float = 1.0) -> UInt8[Tensor, "n c h w"]:
    """Gaussian blur with a standard deviation of `sd` pixels, edges mirrored."""
    if not sd > 0:
        raise ValueError(f"sd is {sd}; expected a positive number of pixels")
    reach = min(math.ceil(3 * sd), min(images.shape[-2:]) - 1)
    weights = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sd) ** 2)
    weights = (weights / weights.sum()).view(1, 1, 1, -1)
    x = images.float().flatten(0, 1)[:, None]
    x = F.conv2d(F.pad(x, (reach, reach, 0, 0), mode="reflect"), weights)
    x = F.conv2d(F.pad(x, (0, 0, reach, reach), mode="reflect"), weights.mT)
    return _bytes(x).view_as(images)


def noise(images: UInt8[Tensor, "n c h w"], sd: float = 20.0, seed: int = 0) -> UInt8[Tensor, "n c h w"]:
    """Independent normal noise of `sd` grey levels on every value, clamped to what a byte holds."""
    return _bytes(images + sd * torch.randn(images.shape, generator=generator(seed, "distortion noise")))


def half_resolution(images: UInt8[Tensor, "n c h w"]) -> UInt8[Tensor, "n c h w"]:
    """Averages of 2×2 pixels, enlarged again with linear interpolation. Height and width must be even."""
    return _bytes(F.interpolate(F.avg_pool2d(images.float(), 2), scale_factor=2, mode="bilinear"))


def min_max(images: UInt8[Tensor, "n c h w"]) -> UInt8[Tensor, "n c h w"]:
    """Each image stretched so that it runs from 0 to 255; one of a single value becomes 0.

    This is what saving samples with `normalize=True` does to them: every image gets a contrast it did not have.
    """
    low, high = (bound(images.float(), dim=(1, 2, 3), keepdim=True) for bound in (torch.amin, torch.amax))
    return _bytes((images - low) * (255 / (high - low).clamp(min=1)))


def without_digit(split: Split, digit: int) -> Split:
    """The images that do not show `digit`, in their order."""
    if not (split.labels == digit).any():
        raise ValueError(f"no image shows {digit}; its labels are {split.labels.unique().tolist()}")
    keep = split.labels != digit
    return Split(split.images[keep], split.labels[keep])


def _bytes(x: Tensor) -> Tensor:
    return x.round().clamp(0, 255).to(torch.uint8)
