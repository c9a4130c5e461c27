"""Pictures become what a policy was trained on: those of PIL, OpenCV, torch and torchvision, to a grey level."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from chunkwise.contract import ImageRule, InterfaceValidationError
from chunkwise.processing.errors import ProcessingError
from chunkwise.processing.images import fit, fitted, scaled

with np.load(Path(__file__).parent / "golden" / "pictures.npz") as _file:
    GOLDEN: dict[str, NDArray[np.uint8]] = {name: _file[name] for name in _file.files}
PICTURE = GOLDEN["picture"]
SIZES = {"smaller": (28, 28), "larger": (60, 80), "thin": (60, 20)}
SINGLE = {
    "lerobot_smolvla-28": ImageRule(28, 28, "letterbox", "bottom_right", antialias=False),
    "lerobot_pi05-28": ImageRule(28, 28, "letterbox", antialias=False),
    "torchvision_crop-27": ImageRule(27, 27, "crop"),
    "pil-grey": ImageRule(colours="grey"),
}


def rule_of(name: str) -> ImageRule:
    """What a golden picture was made with."""
    if name in SINGLE:
        return SINGLE[name]
    maker, kind, size = name.split("-")
    return ImageRule(*SIZES[size], interpolation=kind, antialias=maker not in ("opencv", "torch"))


def apart(one: NDArray[Any], other: NDArray[Any]) -> int:
    """Greatest difference of two pictures, in grey levels."""
    assert one.shape == other.shape
    return int(np.abs(one.astype(np.int16) - other).max())


@pytest.mark.parametrize("name", sorted(GOLDEN.keys() - {"picture"}))
def test_pictures_are_those_of_others(name: str) -> None:
    golden = GOLDEN[name]
    assert apart(fit(PICTURE, rule_of(name)), golden if golden.ndim == 3 else golden[:, :, None]) <= 1


def test_the_golden_pictures_tell_the_rules_apart() -> None:
    """A wrong rule is far off, so the comparison above means something."""
    for change in ({"antialias": False}, {"interpolation": "nearest"}, {"interpolation": "bicubic"}):
        rule = replace(rule_of("pil-bilinear-smaller"), **change)
        assert apart(fit(PICTURE, rule), GOLDEN["pil-bilinear-smaller"]) > 10


KINDS = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3}


@given(
    size=st.tuples(*[st.integers(1, 70)] * 2),
    target=st.tuples(*[st.integers(1, 70)] * 2),
    kind=st.sampled_from(sorted(KINDS)),
    seed=st.integers(0, 9),
)
def test_pictures_are_those_of_pil(size: tuple[int, int], target: tuple[int, int], kind: str, seed: int) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    theirs = np.asarray(Image.fromarray(image).resize(target[::-1], KINDS[kind]))
    ours = fit(image, ImageRule(*target, interpolation=kind))
    # Pillow 13 does the height first for some sizes; so does ours for the picture on its side.
    other = fit(image.transpose(1, 0, 2), ImageRule(*target[::-1], interpolation=kind)).transpose(1, 0, 2)
    assert not apart(ours, theirs) or not apart(other, theirs)
    assert kind in ("bicubic", "lanczos") or apart(ours, theirs) <= 1


@pytest.mark.parametrize(
    ("size", "target"),
    [
        ((480, 640), (224, 224)),
        ((480, 640), (384, 512)),
        ((480, 640), (168, 224)),
        ((640, 480), (224, 168)),
        ((480, 848), (240, 320)),
        ((240, 320), (224, 224)),
        ((720, 1280), (126, 224)),
        ((1080, 1920), (224, 224)),
    ],
)
def test_pictures_of_cameras_are_those_of_pil(size: tuple[int, int], target: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    for kind, number in KINDS.items():
        theirs = np.asarray(Image.fromarray(image).resize(target[::-1], number))
        assert apart(fit(image, ImageRule(*target, interpolation=kind)), theirs) == 0


# Geometry -----------------------------------------------------------------------------------------------------

WHITE = np.full((4, 8, 3), 255, np.uint8)


def bright(image: NDArray[np.uint8]) -> tuple[slice, slice]:
    """Where a picture is white."""
    rows, columns = np.nonzero(image[:, :, 0] == 255)
    return slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1)


@pytest.mark.parametrize(
    ("pad", "rows"), [("centre", slice(1, 4)), ("top_left", slice(0, 3)), ("bottom_right", slice(3, 6))]
)
def test_a_letterbox_pads_the_side_it_says(pad: str, rows: slice) -> None:
    made = fit(WHITE, ImageRule(6, 6, "letterbox", pad))
    assert bright(made) == (rows, slice(0, 6))
    assert made[~(made == 255)].max() == 0
    upright = fit(WHITE.transpose(1, 0, 2), ImageRule(6, 6, "letterbox", pad))
    assert bright(upright) == (slice(0, 6), rows)


def test_bars_have_the_grey_level_that_is_asked_for() -> None:
    assert fit(WHITE, ImageRule(6, 6, "letterbox"), padding=114)[0, 0].tolist() == [114] * 3


def test_the_odd_row_of_a_letterbox_lies_below() -> None:
    assert bright(fit(WHITE, ImageRule(7, 8, "letterbox"))) == (slice(1, 5), slice(0, 8))


@pytest.mark.parametrize(
    ("rule", "size"),
    [
        (ImageRule(), (4, 8)),
        (ImageRule(2, 0), (2, 8)),
        (ImageRule(0, 5), (4, 5)),
        (ImageRule(2, 0, "letterbox"), (2, 4)),
        (ImageRule(0, 4, "crop"), (2, 4)),
        (ImageRule(0, 0, "letterbox"), (4, 8)),
        (ImageRule(1, 1, "letterbox"), (1, 1)),
        (ImageRule(9, 3, "crop"), (9, 3)),
        (ImageRule(4, 8, "exact"), (4, 8)),
        (ImageRule(0, 8, "exact"), (4, 8)),
    ],
)
def test_a_side_of_zero_is_any(rule: ImageRule, size: tuple[int, int]) -> None:
    assert fit(WHITE, rule).shape == (*size, 3)


def test_a_crop_keeps_the_middle() -> None:
    image = np.repeat(np.arange(8, dtype=np.uint8), 3).reshape(1, 8, 3).repeat(4, axis=0)
    assert fit(image, ImageRule(4, 4, "crop"))[0, :, 0].tolist() == [2, 3, 4, 5]


def test_colours_and_axes() -> None:
    image = np.zeros((2, 3, 3), np.uint8)
    image[..., 0] = 200
    assert fit(image, ImageRule(colours="bgr"))[0, 0].tolist() == [0, 0, 200]
    assert fit(image, ImageRule(colours="grey")).shape == (2, 3, 1)
    assert fit(image[:, :, :1], ImageRule(colours="grey"))[0, 0].tolist() == [200]
    made = fit(image, ImageRule(axes="chw"))
    assert made.shape == (3, 2, 3) and made.flags.c_contiguous and made[0].min() == 200


def test_the_picture_that_is_given_stays() -> None:
    image = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    before = image.copy()
    for rule in (ImageRule(), ImageRule(3, 3), ImageRule(colours="bgr"), ImageRule(axes="chw")):
        assert not np.shares_memory(fit(image, rule), image)
    assert (image == before).all()


def test_what_fits_is_known() -> None:
    assert fitted(WHITE, ImageRule()) and fitted(WHITE, ImageRule(4, 8))
    for rule in (ImageRule(8, 4), ImageRule(colours="bgr"), ImageRule(axes="chw")):
        assert not fitted(WHITE, rule)


@pytest.mark.parametrize(
    ("image", "rule", "words"),
    [
        (WHITE.astype(np.float32), ImageRule(), r"uint8 \(height, width, 3\), got float32"),
        (WHITE.transpose(2, 0, 1), ImageRule(), r"got uint8 \(3, 4, 8\)"),
        (WHITE[:, :, :1], ImageRule(), "got uint8"),
        (WHITE[:, :, 0], ImageRule(), "got uint8"),
        (WHITE[:, :, :2], ImageRule(colours="grey"), "width, 1 or 3"),
        (np.zeros((0, 3, 3), np.uint8), ImageRule(), "1 to 16384 pixels"),
        (WHITE, ImageRule(4, 4, "exact"), "must be 4 x 4 .* is 4 x 8; .*set the camera"),
        (np.zeros((1, 1000, 3), np.uint8), ImageRule(16384, 1, "crop"), "would become"),
        (WHITE, ImageRule(fit="streched"), "did you mean 'stretch'"),
    ],
)
def test_what_is_no_picture_is_refused(image: Any, rule: ImageRule, words: str) -> None:
    with pytest.raises(InterfaceValidationError, match=words):
        fit(image, rule)


# Scaling ------------------------------------------------------------------------------------------------------


def test_pictures_are_scaled_once() -> None:
    image = np.random.default_rng(0).integers(0, 256, (2, 5, 3), dtype=np.uint8)
    made = scaled(image)
    assert made.dtype == np.float32 and made.flags.c_contiguous
    assert (made == image.transpose(2, 0, 1).astype(np.float32) / 255).all()
    assert scaled(made) is made
    assert scaled(image[None]).shape == (1, 3, 2, 5)


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (np.full((3, 2, 2), 1.5), "head: .* within 0 to 1, got 1.5 to 1.5; give uint8"),
        (np.full((3, 2, 2), -1, np.float32), "within 0 to 1"),
        (np.full((3, 2, 2), np.nan, np.float32), "within 0 to 1"),
        (np.zeros((2, 2, 3), np.float32), r"channels, height, width\), got float32"),
        (np.zeros((3, 2, 2), np.uint8), "channels come last"),
        (np.zeros((2, 2, 3), np.int64), "got int64"),
        (np.zeros((2, 2), np.uint8), "shape"),
    ],
)
def test_what_is_scaled_twice_or_never_is_refused(image: Any, words: str) -> None:
    with pytest.raises(ProcessingError, match=words):
        scaled(image, "head")
