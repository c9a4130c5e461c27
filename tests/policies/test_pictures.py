"""The one place that applies a policy's image rules."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chunkwise.contract import Frame, ImageRule
from chunkwise.policies._pictures import as_ruled, smaller
from chunkwise.processing.errors import ProcessingError

RED = np.zeros((6, 8, 3), np.uint8)
RED[..., 0] = 255
SIZES = st.integers(0, 12)
RULES = st.builds(
    ImageRule,
    SIZES,
    SIZES,
    st.sampled_from(["stretch", "letterbox", "crop"]),
    st.sampled_from(["centre", "top_left", "bottom_right"]),
    st.sampled_from(["nearest", "bilinear", "bicubic", "area", "lanczos"]),
    colours=st.sampled_from(["rgb", "bgr", "grey"]),
    axes=st.sampled_from(["hwc", "chw"]),
)


def test_what_is_right_already_is_not_touched() -> None:
    frame = Frame({"head": RED, "depth": np.zeros((6, 8), np.float32)})
    assert as_ruled(frame, {}) is frame
    assert (
        as_ruled(frame, {"head": ImageRule(6, 8, "exact"), "depth": ImageRule(), "gone": ImageRule(9, 9)}) is frame
    )


def test_only_what_has_a_rule_is_changed_and_never_in_place() -> None:
    frame = Frame({"head": RED, "wrist": RED}, {"arm": np.zeros(2)}, {"prompt": "go"}, timestamp_ns=3)
    made = as_ruled(frame, {"wrist": ImageRule(colours="bgr", axes="chw")})
    assert made.images["head"] is RED and made.images["wrist"][:, 0, 0].tolist() == [0, 0, 255]
    assert (made.state, made.task, made.timestamp_ns) == (frame.state, frame.task, 3)
    assert frame.images["wrist"] is RED and RED[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize(
    ("image", "rule", "words"),
    [
        (RED, ImageRule(6, 6, "exact"), "camera 'head': "),
        (RED[..., 0], ImageRule(4, 4), "camera 'head': "),
        (RED / 255, ImageRule(4, 4), "camera 'head': "),
    ],
)
def test_what_cannot_be_made_right_is_refused_by_name(image: np.ndarray, rule: ImageRule, words: str) -> None:
    with pytest.raises(ProcessingError, match=words):
        as_ruled(Frame({"head": image}), {"head": rule})


@given(RULES, st.integers(1, 12), st.integers(1, 12), st.integers(0, 99))
def test_making_it_smaller_first_changes_nothing(rule: ImageRule, height: int, width: int, seed: int) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    frame, rules = Frame({"head": image}), {"head": rule}
    less = smaller(frame, rules)
    assert less.images["head"].size <= image.size and less.images["head"].shape[2] == 3
    assert np.array_equal(as_ruled(less, rules).images["head"], as_ruled(frame, rules).images["head"])


def test_only_a_larger_picture_is_made_smaller() -> None:
    frame = Frame({"head": RED})
    assert smaller(frame, {"head": ImageRule(12, 16, "letterbox", axes="chw")}) is frame
    assert smaller(frame, {"head": ImageRule(4, 4, "exact")}) is frame, "whoever applies the rule refuses it"
    assert smaller(frame, {"head": ImageRule(4, 4, "letterbox", axes="chw")}).images["head"].shape == (4, 4, 3)
