"""A policy around another one that fails when the frame says so.

The order travels in the frame's task, so that it reaches the policy wherever it runs: in the loop, in a thread, or
in a process of its own, where this class is made by its name.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NoReturn

import numpy as np

from chunkwise.contract import ActionChunk, ChunkRequest, Frame
from chunkwise.policies import Recipe

ORDERS = "chunkwise_chaos"
"""The task entry with what is to go wrong: a list of ``{"harm", "left_s", ...}``."""
EXIT_CODE = 86
FOR_EVER_S = 1e6
_MEASURED = 200_000
"""Numbers added up to learn how fast this machine is; about 2 ms."""


class FaultyPolicy:
    """Another policy, which fails while its frames say so and is itself otherwise.

    Args:
        name: of the policy, as everywhere.
        options: of its constructor.
        control_hz: the rate of the loop, for a policy that asks for it.
        sleep: blocks for that many seconds.
        hold: keeps the interpreter for that many seconds.
        end: ends the process with an exit code.
    """

    def __init__(
        self,
        *,
        name: str,
        options: Any = None,
        control_hz: float | None = None,
        sleep: Callable[[float], None] = time.sleep,
        hold: Callable[[float], None] | None = None,
        end: Callable[[int], NoReturn] = os._exit,
    ) -> None:
        offered = {} if control_hz is None else {"control_hz": control_hz}
        self._policy = Recipe(name, dict(options or {}), offered).make()
        self._sleep, self._hold, self._end = sleep, hold or hold_interpreter, end

    def __getattr__(self, name: str) -> Any:
        """What else the policy has: spec, meet, warmup, reset, close."""
        if name.startswith("_") or name in ("session", "infer_many"):  # these would go past the faults
            raise AttributeError(name)
        return getattr(self._policy, name)

    def infer(self, frame: Frame, request: ChunkRequest) -> Any:
        """The policy's answer, or what the frame orders instead.

        Raises:
            RuntimeError: ordered.
            Exception: whatever the policy raises.
        """
        orders = frame.task.get(ORDERS)
        if not orders:
            return self._policy.infer(frame, request)
        before = {order["harm"]: order for order in orders}
        self._before(before)
        task = {key: value for key, value in frame.task.items() if key != ORDERS}
        return _spoilt(self._policy.infer(replace(frame, task=task), request), before)

    def _before(self, orders: Mapping[str, Mapping[str, Any]]) -> None:
        if "crash" in orders:
            self._end(EXIT_CODE)
        if "hang" in orders:
            self._sleep(FOR_EVER_S)
        if "stall" in orders:
            self._sleep(float(orders["stall"]["left_s"]))
        if "busy" in orders:
            self._hold(float(orders["busy"]["hold_s"]))
        if "raise" in orders:
            raise RuntimeError("raised on purpose, by the plan of faults")


def _spoilt(answer: Any, orders: Mapping[str, Any]) -> Any:
    """An answer with a number that is none, or with a column too many."""
    if "nan" not in orders and "wrong_shape" not in orders:
        return answer
    rows = np.array(getattr(answer, "rows", answer), dtype=np.float64, ndmin=2, copy=True)
    if "nan" in orders:
        rows[len(rows) // 2, -1] = np.nan
    if "wrong_shape" in orders:
        rows = np.hstack([rows, rows[:, -1:]])
    return ActionChunk(rows, answer.first_step) if isinstance(answer, ActionChunk) else rows


def hold_interpreter(seconds: float) -> None:
    """Compute for about so long in one call that lets nothing else of this interpreter run."""
    began = time.perf_counter()
    sum(range(_MEASURED))
    rate = _MEASURED / (time.perf_counter() - began)
    sum(range(int(rate * seconds)))
