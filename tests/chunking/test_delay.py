"""The delay estimate: conservative, forgetful, never below the newest measurement."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chunkwise.chunking import DelayEstimate


@given(st.lists(st.integers(0, 100), min_size=1), st.integers(1, 20), st.floats(0.1, 1.0))
def test_it_lies_between_the_newest_and_the_largest_in_the_window(
    samples: list[int], window: int, decay: float
) -> None:
    estimate = DelayEstimate(window=window, decay=decay)
    for sample in samples:
        estimate.record(sample)
    assert samples[-1] <= estimate.steps <= max(samples[-window:])


def test_without_decay_it_is_the_largest_of_the_window() -> None:
    estimate = DelayEstimate(window=3, decay=1.0)
    seen = []
    for sample in (2, 9, 3, 2, 2, 5):
        estimate.record(sample)
        seen.append(estimate.steps)
    assert seen == [2, 9, 9, 9, 3, 5]


def test_one_hiccup_counts_less_and_less_and_is_forgotten() -> None:
    estimate = DelayEstimate(window=10, decay=0.95)
    estimate.record(40)
    seen = []
    for _ in range(10):
        estimate.record(2)
        seen.append(estimate.steps)
    assert seen[0] == 39  # 2 + 38 * 0.95 = 38.1, rounded up
    assert seen == sorted(seen, reverse=True)
    assert seen[-1] == 2


def test_a_constant_delay_is_estimated_exactly() -> None:
    estimate = DelayEstimate()
    for _ in range(50):
        estimate.record(7)
        assert estimate.steps == 7


def test_reset_goes_back_to_the_start() -> None:
    estimate = DelayEstimate(initial=4)
    estimate.record(30)
    estimate.reset()
    assert estimate.steps == 4
    estimate.record(1)
    assert estimate.steps == 1  # nothing of before is left


def test_a_fixed_delay_is_not_measured() -> None:
    estimate = DelayEstimate(fixed=3)
    estimate.record(30)
    assert estimate.steps == 3
    estimate.reset()
    assert estimate.steps == 3


@pytest.mark.parametrize("wrong", [{"window": 0}, {"decay": 0.0}, {"decay": 1.1}, {"initial": -1}, {"fixed": -1}])
def test_nonsense_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="DelayEstimate needs"):
        DelayEstimate(**wrong)  # type: ignore[arg-type]
