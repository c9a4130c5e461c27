"""A robot and a policy that tell the tests where they are and what they did; found by this file's name."""

from __future__ import annotations

import json
import os
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np

from chunkwise import plugins
from chunkwise.contract import Action, ActionChunk, ChunkRequest, Frame, PolicyOutputSpec, PolicySpec
from chunkwise.contract.values import Array

ROWS = 25
SPEED = 0.002
"""Of every joint under :class:`Turn`, rad per step."""


class TellingArm:
    """An arm that remembers its last second, and writes it down when it is let go of.

    Args:
        path: a directory for ``pid``, written when it is made, and ``last.json``: ``pid`` and ``sent``.
        broken: it cannot be connected.
    """

    def __init__(self, *, path: str, broken: bool = False) -> None:
        self._arm: Any = plugins.load("robots", "mock")(arms=1)
        self._path, self._broken = Path(path), broken
        self._sent: deque[float] = deque(maxlen=50)
        self.spec = self._arm.spec
        (self._path / "pid").write_text(str(os.getpid()), encoding="utf-8")

    def connect(self) -> None:
        """Nothing to do, or nothing that can be done."""
        if self._broken:
            raise OSError("no such arm")

    def observe(self) -> Frame:
        made: Frame = self._arm.observe()
        return made

    def act(self, action: Action) -> Action:
        self._sent.append(float(action.commands["arm"].value[0]))
        made: Action = self._arm.act(action)
        return made

    def close(self) -> None:
        """Write down what was sent last."""
        beside = self._path / "last.part"
        beside.write_text(json.dumps({"pid": os.getpid(), "sent": list(self._sent)}), encoding="utf-8")
        os.replace(beside, self._path / "last.json")


class Turn:
    """Turns every joint evenly; remembers nothing.

    Args:
        path: a directory for ``policy``, its process's number; empty for none.
        sign: which way, 1 or -1.
    """

    def __init__(self, *, path: str = "", sign: int = 1) -> None:
        self._sign = sign
        outputs = [PolicyOutputSpec("arm", "joint_position", 7)]
        self.spec = PolicySpec("turn", [], ["arm"], outputs=outputs, action_horizon=ROWS)
        if path:
            (Path(path) / "policy").write_text(str(os.getpid()), encoding="utf-8")

    def infer(self, frame: Frame, request: ChunkRequest) -> ActionChunk:
        """Row `i` of the answer to step `s` is where the joints are at step `s + i`."""
        steps: Array = request.request_step + np.arange(ROWS, dtype=float)
        return ActionChunk(np.repeat(self._sign * SPEED * steps[:, None], 7, axis=1))
