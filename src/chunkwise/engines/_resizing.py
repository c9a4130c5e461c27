"""Pictures as tensors made another size, as torch's bilinear `interpolate` does it; numpy alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
PAD = -1.0
"""What LeRobot's pi05 fills up with, before it maps [0, 1] to [-1, 1]; so it did in training."""


def bilinear(images: Float32, height: int, width: int) -> Float32:
    """(B, C, H, W) stretched to (B, C, `height`, `width`): half-pixel centres, no filter when it gets smaller."""
    for axis, size in ((2, height), (3, width)):
        images = _along(images, axis, size)
    return images


def letterboxed(images: Float32, height: int, width: int) -> Float32:
    """(B, C, H, W) within [-1, 1], made to fit and filled up to (B, C, `height`, `width`), itself in the middle.

    Source: `resize_with_pad` of openpi and of LeRobot's pi0 and pi05; what is left over goes right and below.
    """
    old_height, old_width = images.shape[2:]
    ratio = max(old_width / width, old_height / height)
    inner = int(old_height / ratio), int(old_width / ratio)
    top, left = (height - inner[0]) // 2, (width - inner[1]) // 2
    made = np.full((*images.shape[:2], height, width), PAD, np.float32)
    made[:, :, top : top + inner[0], left : left + inner[1]] = bilinear(images, *inner).clip(-1.0, 1.0)
    return made


def _along(images: Float32, axis: int, size: int) -> Float32:
    old = images.shape[axis]
    if old == size:
        return images
    at = np.maximum((np.arange(size) + 0.5) * (old / size) - 0.5, 0.0)
    low = np.minimum(at.astype(np.int64), old - 1)
    high = np.minimum(low + 1, old - 1)
    weight = (at - low).astype(np.float32).reshape([-1 if one == axis else 1 for one in range(images.ndim)])
    made: Float32 = images.take(low, axis) * (1 - weight) + images.take(high, axis) * weight
    return made
