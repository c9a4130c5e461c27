"""Engines side by side: whether they answer the same, and how long they take."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chunkwise.engines import Engine, TensorSpec

Tensors = Mapping[str, NDArray[Any]]


def random_inputs(specs: Mapping[str, TensorSpec], rng: np.random.Generator) -> dict[str, NDArray[Any]]:
    """What must be given, as it is after normalising: numbers about 0, of about 1; a free size is 1."""
    made = {}
    for name, spec in specs.items():
        if spec.optional:
            continue
        shape = [size or 1 for size in spec.shape]
        kind = np.dtype(spec.dtype).kind
        drawn = rng.standard_normal(shape) if kind == "f" else rng.integers(0, 2, shape)
        made[name] = drawn.astype(spec.dtype)
    return made


def largest_difference(one: Engine, other: Engine, inputs: Iterable[Tensors]) -> float:
    """Of all numbers of all outputs, the largest difference between two engines; NaN where one gives NaN."""
    most = [0.0]
    for tensors in inputs:
        ours, theirs = one.run(tensors), other.run(tensors)
        most += [float(np.max(np.abs(ours[name] - theirs[name]))) for name in ours]
    return float(np.max(most))


def side_by_side_s(engines: Mapping[str, Engine], tensors: Tensors, *, rounds: int) -> dict[str, NDArray[Any]]:
    """How long calls of each engine take: (rounds, 2), by the clock and of the processor [s].

    Every round asks each engine once, so that whatever else the machine does meets all of them alike.  More of the
    processor than of the clock: it used several cores.
    """
    for engine in engines.values():
        engine.warmup()
    took: dict[str, list[tuple[float, float]]] = {name: [] for name in engines}
    for _ in range(rounds):
        for name, engine in engines.items():
            began, busy = time.perf_counter(), time.process_time()
            engine.run(tensors)
            took[name].append((time.perf_counter() - began, time.process_time() - busy))
    return {name: np.array(samples) for name, samples in took.items()}


def medians_s(engines: Mapping[str, Engine], tensors: Tensors, *, rounds: int) -> dict[str, float]:
    """The median of how long a call of each takes by the clock [s]."""
    took = side_by_side_s(engines, tensors, rounds=rounds)
    return {name: float(np.median(samples[:, 0])) for name, samples in took.items()}
