"""The soft mask of real-time chunking, against vectors that the published implementations agree on."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chunkwise.chunking import prefix_weights

VECTORS = [
    (2, 6, "linear", [1, 1, 0.8, 0.6, 0.4, 0.2]),
    (2, 6, "exp", [1, 1, 0.5706, 0.2871, 0.1145, 0.0258]),
    (0, 7, "exp", [0.7123, 0.4876, 0.3158, 0.1888, 0.0993, 0.0413, 0.0097]),
    (1, 7, "exp", [1, 0.6766, 0.4335, 0.2563, 0.1335, 0.0550, 0.0128]),
    (3, 5, "exp", [1, 1, 1, 0.3677, 0.0767]),
    (4, 4, "exp", [1, 1, 1, 1]),
    (4, 4, "zeros", [1, 1, 1, 1]),
    (5, 14, "exp", [1] * 5 + [0.7645, 0.5706, 0.4130, 0.2871, 0.1888, 0.1145, 0.0611, 0.0258, 0.0061]),
    (5, 3, "exp", [1, 1, 1]),  # what is not planned cannot be kept
    (5, 3, "linear", [1, 1, 1]),
    (2, 5, "ones", [1, 1, 1, 1, 1]),
    (2, 5, "zeros", [1, 1, 0, 0, 0]),
    (0, 3, "zeros", [0, 0, 0]),
    (3, 0, "exp", []),
]


@pytest.mark.parametrize(("delay", "overlap", "schedule", "expected"), VECTORS)
def test_vectors(delay: int, overlap: int, schedule: str, expected: list[float]) -> None:
    weights = prefix_weights(delay, overlap, schedule)  # type: ignore[arg-type]
    assert weights.shape == (overlap,)
    np.testing.assert_allclose(weights, expected, atol=5e-5)


@given(st.integers(0, 60), st.integers(0, 60), st.sampled_from(["exp", "linear", "ones", "zeros"]))
def test_weights_fall_from_1_to_0(delay: int, overlap: int, schedule: str) -> None:
    weights = prefix_weights(delay, overlap, schedule)  # type: ignore[arg-type]
    assert ((weights >= 0) & (weights <= 1)).all()
    assert (np.diff(weights) <= 0).all()
    assert (weights[: min(delay, overlap)] == 1).all()


def test_the_cached_array_cannot_be_written() -> None:
    with pytest.raises(ValueError, match="read-only"):
        prefix_weights(1, 4)[0] = 0.0


@pytest.mark.parametrize(("delay", "overlap", "schedule"), [(-1, 2, "exp"), (1, -2, "exp"), (1, 2, "cubic")])
def test_nonsense_is_refused(delay: int, overlap: int, schedule: str) -> None:
    with pytest.raises(ValueError, match=r"need inference_delay|schedule must be"):
        prefix_weights(delay, overlap, schedule)  # type: ignore[arg-type]
