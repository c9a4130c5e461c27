"""A camera's picture as a policy wants it: the one place that applies an `ImageRule`.

Resampling is separable: one small matrix for the width, one for the height, made once for each pair of sizes.  Two
conventions are in use, and a policy has been trained with one of them::

    antialias=True    PIL, torchvision v2, JAX      a shrunk pixel is the mean of all that it covers, the kernel
                                                    stretched by the ratio; width first, rounded, then height
    antialias=False   OpenCV, F.interpolate         the kernel keeps its size, and edges are repeated

Sources:
    PIL ``Resample.c`` (https://github.com/python-pillow/Pillow), OpenCV's ``cv::resize``
    (https://docs.opencv.org/4.x/da/d54/group__imgproc__transform.html), ``resize_with_pad`` of
    https://github.com/Physical-Intelligence/openpi; the golden images of the tests come from them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from chunkwise.contract.images import ImageRule, validate_image_rule
from chunkwise.processing.errors import ProcessingError

Picture = NDArray[np.uint8]
Kernel = Callable[[NDArray[np.float64]], NDArray[np.float64]]

MAX_SIDE: Final = 1 << 14
_GREY: Final = np.array([19595, 38470, 7471], dtype=np.uint32)
"""ITU-R 601 luma in 65536ths, as PIL has it."""
_FIXED: Final = 1 << 22
"""PIL's weights are whole numbers of this part; with the same, ties are rounded as it rounds them."""
_BLOCK: Final = 16
"""Rows of a matrix that are multiplied at once: a resampling matrix is a band, and what lies beside it is zero."""


def fit(image: NDArray[Any], rule: ImageRule, *, padding: int = 0) -> Picture:
    """One picture as the rule has it.

    Args:
        image: uint8 ``(height, width, 3)``, red first; ``(height, width, 1)`` where the rule is grey.
        rule: size, fit, interpolation, colours and axes.
        padding: grey level of a letterbox's bars.

    Returns:
        A new uint8 array, contiguous: ``(height, width, 3)`` or ``(3, height, width)``; one channel for grey.

    Raises:
        ProcessingError: it is no such picture, or it has another size where the rule says ``exact``.
        InterfaceValidationError: the rule is none.

    >>> fit(np.full((480, 640, 3), 9, np.uint8), ImageRule(4, 4, "letterbox"))[:, 0, 0].tolist()
    [9, 9, 9, 0]
    """
    validate_image_rule(rule, "image rule")
    _check(image, rule)
    height, width = _scaled_size(image.shape[0], image.shape[1], rule)
    made = _resized(image, height, width, rule)
    if rule.fit == "crop":
        made = _cropped(made, rule)
    elif rule.fit == "letterbox":
        made = _padded(made, rule, padding)
    made = _coloured(made, rule.colours)
    if rule.axes == "chw":
        made = made.transpose(2, 0, 1)
    return np.array(made, order="C")


def fitted(image: NDArray[Any], rule: ImageRule) -> bool:
    """Whether `fit` would change nothing of a picture."""
    size = rule.height or image.shape[0], rule.width or image.shape[1]
    return image.shape[:2] == size and rule.colours == "rgb" and rule.axes == "hwc"


def scaled(image: NDArray[Any], name: str = "image") -> NDArray[np.float32]:
    """A picture as networks take it, scaled once.

    Args:
        image: uint8 ``(..., height, width, channels)`` with 1 or 3 channels; or float
            ``(..., channels, height, width)`` that is within [0, 1] already.
        name: for messages.

    Returns:
        float32 ``(..., channels, height, width)`` in [0, 1].

    Raises:
        ProcessingError: it is neither; nobody knows what has been done to a float picture from 0 to 255, or from
            -1 to 1.

    >>> scaled(np.array([[[0, 51, 255]]], np.uint8)).ravel().tolist() == [0, np.float32(0.2), 1]
    True
    """
    if image.ndim < 3:
        raise ProcessingError(f"{name}: a picture must be (height, width, channels), got shape {image.shape}")
    if image.dtype == np.uint8:
        if image.shape[-1] not in (1, 3):
            raise ProcessingError(
                f"{name}: a uint8 picture must be (height, width, 1 or 3), got shape {image.shape}; "
                "channels come last until it is scaled"
            )
        first = np.ascontiguousarray(np.moveaxis(image, -1, -3))
        made: NDArray[np.float32] = np.divide(first, np.float32(255), dtype=np.float32)
        return made
    if image.dtype.kind != "f" or image.shape[-3] not in (1, 3):
        raise ProcessingError(
            f"{name}: a picture must be uint8 (height, width, channels) or float (channels, height, width), "
            f"got {image.dtype} {image.shape}"
        )
    if image.size and not (image.min() >= 0 and image.max() <= 1):  # NaN fails both
        raise ProcessingError(
            f"{name}: a float picture must be within 0 to 1, got {image.min():g} to {image.max():g}; give uint8, "
            "which is scaled here"
        )
    return np.asarray(image, dtype=np.float32)


def _check(image: NDArray[Any], rule: ImageRule) -> None:
    channels = (1, 3) if rule.colours == "grey" else (3,)
    if image.ndim != 3 or image.shape[2] not in channels or image.dtype != np.uint8:
        words = " or ".join(map(str, channels))
        raise ProcessingError(
            f"a picture must be uint8 (height, width, {words}), got {image.dtype} {tuple(image.shape)}"
        )
    if not all(0 < side <= MAX_SIDE for side in image.shape[:2]):
        raise ProcessingError(f"a picture must be 1 to {MAX_SIDE} pixels high and wide, got {image.shape[:2]}")
    wanted = rule.height or image.shape[0], rule.width or image.shape[1]
    if rule.fit == "exact" and image.shape[:2] != wanted:
        raise ProcessingError(
            f"a picture must be {wanted[0]} x {wanted[1]} (height x width) and is "
            f"{image.shape[0]} x {image.shape[1]}; the policy's rule is 'exact': set the camera to that size"
        )


# Geometry -----------------------------------------------------------------------------------------------------


def _scaled_size(height: int, width: int, rule: ImageRule) -> tuple[int, int]:
    """Size of the whole picture before it is padded or cut; a side of 0 goes along with the other."""
    if rule.fit in ("exact", "stretch") or not (rule.height or rule.width):
        return rule.height or height, rule.width or width
    ratios = [side / wanted for side, wanted in ((width, rule.width), (height, rule.height)) if wanted]
    ratio = max(ratios) if rule.fit == "letterbox" else min(ratios)
    # Rounded down as in openpi's and LeRobot's resize_with_pad and torchvision's Resize; never to nothing.
    found = max(1, int(height / ratio)), max(1, int(width / ratio))
    if rule.fit == "crop":  # dividing may lose the last pixel of the side that fits exactly
        found = max(found[0], rule.height), max(found[1], rule.width)
    if max(found) > MAX_SIDE:
        raise ProcessingError(f"a picture of {height} x {width} would become {found[0]} x {found[1]} pixels")
    return found


def _padded(image: Picture, rule: ImageRule, padding: int) -> Picture:
    height, width = rule.height or image.shape[0], rule.width or image.shape[1]
    if image.shape[:2] == (height, width):
        return image
    free = height - image.shape[0], width - image.shape[1]
    share = {"centre": (free[0] // 2, free[1] // 2), "top_left": (0, 0), "bottom_right": free}
    top, left = share[rule.pad]
    made = np.full((height, width, image.shape[2]), padding, dtype=np.uint8)
    made[top : top + image.shape[0], left : left + image.shape[1]] = image
    return made


def _cropped(image: Picture, rule: ImageRule) -> Picture:
    """The middle, which for an odd number of pixels to cut lies as torchvision's CenterCrop has it."""
    height, width = rule.height or image.shape[0], rule.width or image.shape[1]
    top, left = round((image.shape[0] - height) / 2), round((image.shape[1] - width) / 2)
    return image[top : top + height, left : left + width]


def _coloured(image: Picture, colours: str) -> Picture:
    if colours == "bgr":
        return image[:, :, ::-1]
    if colours == "grey" and image.shape[2] == 3:
        grey: Picture = ((image @ _GREY + 0x8000) >> 16).astype(np.uint8)
        return grey[:, :, None]
    return image


# Resampling ---------------------------------------------------------------------------------------------------


def _resized(image: Picture, height: int, width: int, rule: ImageRule) -> Picture:
    old_height, old_width, channels = image.shape
    if (old_height, old_width) == (height, width):
        return image
    if rule.interpolation == "nearest":
        return image[_nearest(old_height, height)][:, _nearest(old_width, width)]
    kind = rule.interpolation, rule.antialias
    columns: NDArray[Any] = image.transpose(1, 0, 2)  # the width first, as PIL has it
    if old_width != width:
        wide = _band(old_width, width, *kind).apply(columns.reshape(old_width, -1))
        if rule.antialias:
            _round(wide)
        columns = wide.reshape(width, old_height, channels)
    rows: NDArray[Any] = columns.transpose(1, 0, 2)
    if old_height != height:
        rows = (
            _band(old_height, height, *kind).apply(rows.reshape(old_height, -1)).reshape(height, width, channels)
        )
    rows = np.ascontiguousarray(rows, dtype=np.float64)
    _round(rows)
    return rows.astype(np.uint8)


def _round(values: NDArray[np.float64]) -> None:
    """To grey levels, in place."""
    values += 0.5
    np.clip(values, 0, 255, out=values)
    np.floor(values, out=values)


class _Band:
    """A resampling matrix ``(new, old)``, cut into blocks along its diagonal.

    Args:
        first: int ``(new,)``, the old pixel that the first weight of each new one belongs to; edges repeat.
        weights: float64 ``(new, taps)``.
        old: number of old pixels.
    """

    def __init__(self, first: NDArray[np.int64], weights: NDArray[np.float64], old: int) -> None:
        self.new = len(first)
        taps = np.clip(first[:, None] + np.arange(weights.shape[1]), 0, old - 1)
        self.blocks: list[tuple[slice, slice, NDArray[np.float64]]] = []
        for start in range(0, self.new, _BLOCK):
            rows = slice(start, min(start + _BLOCK, self.new))
            low, high = int(taps[rows].min()), int(taps[rows].max()) + 1
            block = np.zeros((rows.stop - rows.start, high - low))
            for row, (at, weight) in enumerate(zip(taps[rows], weights[rows], strict=True)):
                np.add.at(block[row], at - low, weight)
            self.blocks.append((rows, slice(low, high), block))

    def apply(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """Grey levels ``(old, n)`` -> float64 ``(new, n)``."""
        values = np.ascontiguousarray(values, dtype=np.float64)
        made = np.empty((self.new, values.shape[1]))
        for rows, span, block in self.blocks:
            np.matmul(block, values[span], out=made[rows])
        return made


@lru_cache(maxsize=64)
def _band(old: int, new: int, interpolation: str, antialias: bool) -> _Band:
    if interpolation == "area":
        return _area(old, new)
    return _antialiased(old, new, interpolation) if antialias else _sampled(old, new, interpolation)


def _antialiased(old: int, new: int, interpolation: str) -> _Band:
    """PIL's: the kernel is as much wider as the picture gets smaller, and cut off at the edges."""
    kernel, support = {"bilinear": (_triangle, 1), "bicubic": (_cubic(-0.5), 2), "lanczos": (_lanczos(3), 3)}[
        interpolation
    ]
    scale = old / new
    stretch = max(scale, 1.0)
    centre = (np.arange(new) + 0.5) * scale
    first = np.floor(np.maximum(centre - support * stretch + 0.5, 0)).astype(np.int64)
    last = np.floor(np.minimum(centre + support * stretch + 0.5, old)).astype(np.int64)
    at = first[:, None] + np.arange((last - first).max())
    weights = kernel((at - centre[:, None] + 0.5) * (1 / stretch))
    weights[at >= last[:, None]] = 0
    weights *= 1 / np.cumsum(weights, axis=1)[:, -1:]  # added up and multiplied as PIL does, to the last bit
    return _Band(first, np.copysign(np.floor(np.abs(weights) * _FIXED + 0.5), weights) / _FIXED, old)


def _sampled(old: int, new: int, interpolation: str) -> _Band:
    """OpenCV's and torch's: the nearest few pixels, whatever the ratio, and edges repeated."""
    kernel, support = {"bilinear": (_triangle, 1), "bicubic": (_cubic(-0.75), 2), "lanczos": (_lanczos(4), 4)}[
        interpolation
    ]
    centre = (np.arange(new) + 0.5) * (old / new) - 0.5
    first = np.floor(centre).astype(np.int64) - support + 1
    weights = kernel(first[:, None] + np.arange(2 * support) - centre[:, None])
    return _Band(first, weights / weights.sum(axis=1, keepdims=True), old)


def _area(old: int, new: int) -> _Band:
    """What each new pixel covers of the old ones, as OpenCV's INTER_AREA where both sides shrink or both grow."""
    edges = np.arange(new + 1) * old / new
    first = np.floor(edges[:-1]).astype(np.int64)
    at = first[:, None] + np.arange(math.ceil(old / new) + 1)
    covered = np.minimum(at + 1, edges[1:, None]) - np.maximum(at, edges[:-1, None])
    weights = np.where(at < old, np.maximum(covered, 0), 0.0)
    return _Band(first, weights / weights.sum(axis=1, keepdims=True), old)


@lru_cache(maxsize=64)
def _nearest(old: int, new: int) -> NDArray[np.int64]:
    """The old pixel under the middle of each new one, as PIL and torch's ``nearest-exact``."""
    steps = np.full(new, old / new)
    steps[0] /= 2
    return np.minimum(np.cumsum(steps).astype(np.int64), old - 1)  # added up as PIL does, which decides ties


def _triangle(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.maximum(1 - np.abs(x), 0))


def _cubic(a: float) -> Kernel:
    """Keys's kernel; its slope `a` at 1 is -0.5 in PIL and -0.75 in OpenCV."""

    def kernel(x: NDArray[np.float64]) -> NDArray[np.float64]:
        x = np.abs(x)
        near = ((a + 2) * x - (a + 3)) * x * x + 1
        far = (((x - 5) * x + 8) * x - 4) * a
        return np.where(x < 1, near, np.where(x < 2, far, 0.0))

    return kernel


def _lanczos(size: int) -> Kernel:
    def kernel(x: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.where(np.abs(x) < size, np.sinc(x) * np.sinc(x / size), 0.0)

    return kernel
