"""The blend of two chunks: what the IGRIS engine's weights are, and where they end."""

from __future__ import annotations

import doctest

import numpy as np
import pytest

from chunkwise.policies.igris import blend, columns, documents, exponential_blend, networks

PUBLISHED = [1, 1, 1, 1, 1, 0.784116, 0.603001, 0.452642, 0.329461, 0.230270, 0.152228, 0.092810, 0.049766]
PUBLISHED += [0.021099, 0.005035]
"""The engine's weights for H = 50, d = 5, s = 35; every later one is zero."""


def test_the_weights_are_the_engines() -> None:
    made = exponential_blend(np.ones((50, 2)), np.zeros((50, 2)), delay=5, executed=35)
    np.testing.assert_allclose(made[:15, 0], PUBLISHED, atol=1e-6)
    assert not made[15:].any() and made.dtype == np.float32


def test_what_is_past_the_plan_comes_from_the_new_chunk_alone() -> None:
    made = exponential_blend(np.full((8, 1), 9.0), np.zeros((8, 1)), delay=60, executed=6)
    assert made.ravel().tolist() == [9, 9, 0, 0, 0, 0, 0, 0]
    assert not exponential_blend(np.ones((4, 1)), np.zeros((4, 1)), delay=2, executed=9).any()


@pytest.mark.parametrize(
    ("previous", "delay", "executed"), [((7, 1), 1, 1), ((8,), 1, 1), ((8, 1), -1, 1), ((8, 1), 1, -1)]
)
def test_what_cannot_be_blended_is_refused(previous: tuple[int, ...], delay: int, executed: int) -> None:
    with pytest.raises(ValueError, match=r"blended|at least 0|>= 0"):
        exponential_blend(np.ones(previous), np.zeros((8, 1)), delay=delay, executed=executed)


@pytest.mark.parametrize("module", [blend, columns, documents, networks], ids=lambda module: module.__name__)
def test_examples_in_docstrings(module: object) -> None:
    done = doctest.testmod(module)  # type: ignore[arg-type]
    assert done.attempted and not done.failed


def authors(delay: int, end: int, rows: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """The soft mask of the paper's authors over a whole chunk, `end` = H - s; a delay beyond it ends there."""
    start = min(delay, end)
    falling = np.clip((start - 1 - np.arange(rows)) / (end - start + 1) + 1, 0, 1)
    weights = falling * np.expm1(falling) / (np.e - 1)
    weights[end:] = 0
    return weights


def engines(delay: int, executed: int, rows: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """The IGRIS engine's weights: 1 up to the delay, falling up to the end of the plan, then 0."""
    if delay >= rows:
        return np.ones(rows)
    end = rows - min(max(executed, 1), max(rows - delay, 1))
    falling = (end - np.arange(rows)) / (end - delay + 1)
    weights = falling * np.expm1(falling) / (np.e - 1)
    weights[:delay], weights[end:] = 1, 0
    return weights


@pytest.mark.parametrize("rows", [8, 16, 50])
def test_the_weights_of_every_delay_and_every_share_that_has_run(rows: int) -> None:
    """The engine's and the authors' while ``d <= H - s``.

    Beyond that the engine keeps rows that nobody has planned, and we follow the authors.
    """
    one, zero = np.ones((rows, 1)), np.zeros((rows, 1))
    differ = 0
    for executed in range(1, rows + 1):
        for delay in range(rows + 3):
            made = exponential_blend(one, zero, delay=delay, executed=executed)[:, 0]
            theirs = engines(delay, executed, rows)
            np.testing.assert_allclose(made, authors(delay, rows - executed, rows), rtol=0, atol=1e-6)
            if delay <= rows - executed:
                np.testing.assert_allclose(made, theirs, rtol=0, atol=1e-6)
            else:
                differ += np.abs(made - theirs).max() > 0.5
    assert differ, "beyond the plan the two are not the same, so this test can tell them apart"
