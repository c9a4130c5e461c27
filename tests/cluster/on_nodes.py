"""Policies that the tests have made on a cluster; found by this file's name."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from chunkwise import plugins
from chunkwise.contract import ActionChunk, ChunkRequest, Frame, PolicyOutputSpec, PolicySpec
from chunkwise.testing.worker import hang


def hang_or_tell(frame: Frame, request: ChunkRequest) -> ActionChunk:
    """Hangs at the pipes that the task names; without any, answers its process's number."""
    if frame.task:
        return hang(frame, request)
    return ActionChunk(np.array([[float(os.getpid())]]))


class WaveThatTells:
    """Waves an arm.

    Args:
        path: the file that it writes its process's number into.
    """

    def __init__(self, *, path: str) -> None:
        self._wave: Any = plugins.load("policies", "wave")(components="arm:7")
        self.spec = self._wave.spec
        Path(path).write_text(str(os.getpid()), encoding="utf-8")

    def infer(self, frame: Frame, request: ChunkRequest) -> ActionChunk:
        made: ActionChunk = self._wave.infer(frame, request)
        return made


class Together:
    """Row `i` of the answer to step `s`: `s + i`, how many requests came in the same call, and the process.

    It stands for a network on a GPU: a call takes as long for eight requests as for one.

    Args:
        call_s: how long a call takes.
        rows: of a chunk.
    """

    max_batch = 8

    def __init__(self, *, call_s: float = 0.0, rows: int = 1) -> None:
        self._call_s, self._rows = call_s, rows
        outputs = [PolicyOutputSpec("arm", "joint_position", 3)]
        self.spec = PolicySpec("together", [], ["arm"], outputs=outputs, action_horizon=rows)

    def session(self) -> Together:
        """Itself."""
        return self

    def infer(self, frame: Frame, request: ChunkRequest) -> ActionChunk:
        """One request."""
        (answer,) = self.infer_many([(frame, request)])
        if isinstance(answer, Exception):
            raise answer
        return answer

    def infer_many(self, calls: Sequence[tuple[Frame, ChunkRequest]]) -> list[ActionChunk | Exception]:
        """Several; a step below 0 is none, and a task is a word: ``die``, ``hang`` or ``deep``, for no rows."""
        for frame, _ in calls:
            if frame.task.get("word") == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            if frame.task.get("word") == "hang":
                threading.Event().wait()
        time.sleep(self._call_s)
        answers = [self._answer(request.request_step, len(calls)) for _, request in calls]
        for (frame, _), answer in zip(calls, answers, strict=True):
            if frame.task.get("word") == "deep" and isinstance(answer, ActionChunk):
                answer.rows = np.zeros((1, 1, 3))
        return answers

    def _answer(self, step: int, together: int) -> ActionChunk | Exception:
        if step < 0:
            return ValueError(f"no such step: {step}")
        return ActionChunk(np.array([[step + row, together, os.getpid()] for row in range(self._rows)], float))


class Checkpoint(Together):
    """One of several models: the same, and every value of its answers is its number but for the process.

    Args:
        number: what it answers.
        diary: a file; a line for every time that it is begun behind a gate, made, and closed.
        gate: a named pipe; it is made only while somebody has it open for writing.
        joints: of its arm.
    """

    def __init__(
        self, *, number: float, diary: str = "", gate: str = "", joints: int = 3, call_s: float = 0.0
    ) -> None:
        super().__init__(call_s=call_s)
        self._number, self._diary = number, diary
        self.spec = replace(self.spec, outputs=[PolicyOutputSpec("arm", "joint_position", joints)])
        if gate and diary:
            self._write("begun", f" {os.getpid()}")
        if gate:
            Path(gate).open("rb").close()
        self._write("made")

    def close(self) -> None:
        """Say so."""
        self._write("closed")

    def _answer(self, step: int, together: int) -> ActionChunk:
        return ActionChunk(np.array([[self._number, together, os.getpid()]]))

    def _write(self, word: str, more: str = "") -> None:
        if self._diary:
            with Path(self._diary).open("a", encoding="utf-8") as diary:
                diary.write(f"{word} {self._number:g}{more}\n")
