"""The client's end: a foreign OpenArm policy server is a policy here."""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from chunkwise.contract import ActionChunk, ChunkRequest, Frame, InterfaceValidationError, PolicySpec, checked_rows
from chunkwise.contract.values import Array
from chunkwise.wires import Answered, Buffer, Event, Failed, Problem, Sending, Trouble, WireError
from chunkwise.wires.openarm import observation
from chunkwise.wires.openarm.lines import Lines, parsed

if TYPE_CHECKING:
    from chunkwise.wires.openarm import OpenArm

MAX_ANSWER: Final = 4 << 20


class Client:
    """One connection to a policy server.

    Attributes:
        spec: the arms; nothing in the protocol says which cameras the server wants.
        lockstep: one request at a time.
    """

    lockstep = True

    def __init__(self, wire: OpenArm) -> None:
        policy = wire.policy()
        self._wire, self._outputs, self._width = wire, policy.outputs, policy.action_dim
        self.spec: PolicySpec | None = policy
        self._theirs = {ours: theirs for theirs, ours in wire.cameras.items()}
        self._prefix = f"{wire.folder}/chunkwise-openarm-{secrets.token_hex(8)}"
        self._lines = Lines(MAX_ANSWER, 1)
        self._asked: int | None = None
        self._files, self._number = 0, 0

    def opening(self) -> Sending | None:
        """Nothing: the first request opens."""
        return None

    def reset(self, id: int) -> Sending | None:
        """Nothing: the next request says it."""
        self._number = 0
        return None

    def ask(self, id: int, frame: Frame, request: ChunkRequest, deadline_s: float | None) -> Sending:
        """The file of an observation, and the line that names it.

        Raises:
            InterfaceValidationError: a state is missing, or what it shows cannot be written.
        """
        phase = frame.state.get(self._wire.phase)
        prompt = frame.task.get("prompt")
        content, metadata = observation.write(
            self._wire.pa,
            self._position(frame),
            self._pictures(frame),
            phase=None if phase is None else np.asarray(phase, dtype=np.float64),
            prompt=prompt if isinstance(prompt, str) else None,
            number=self._number,
        )
        path = f"{self._prefix}-{self._files}.arrow"
        line: dict[str, Any] = {
            "name": "inference",
            "data_path": path,
            "reset": self._number == 0,
            "metadata": {"timestamp": frame.timestamp_ns, "episode_number": 0, **metadata},
        }
        data = (json.dumps(line, allow_nan=False) + "\n").encode("ascii")
        self._files, self._number, self._asked = self._files + 1, self._number + 1, id
        return Sending(data, {path: [content]})

    def _position(self, frame: Frame) -> Array:
        pieces = []
        for output in self._outputs:
            value = frame.state.get(output.target)
            if value is None or value.shape != (output.dim,) or not np.isfinite(value).all():
                raise InterfaceValidationError(f"state {output.target!r} must hold {output.dim} finite numbers")
            pieces.append(value)
        return np.concatenate(pieces).astype(np.float64)

    def _pictures(self, frame: Frame) -> dict[str, NDArray[Any]]:
        if not self._theirs:
            return frame.images
        missing = [name for name in self._theirs if name not in frame.images]
        if missing:
            raise InterfaceValidationError(f"the frame has no image of {', '.join(missing)}")
        return {theirs: frame.images[ours] for ours, theirs in self._theirs.items()}

    def receive(self, data: Buffer, now_s: float) -> Sequence[Event]:
        """The server's answer, once its line is whole.

        Raises:
            WireError: it is none, or one that was not asked for.
        """
        return [self._event(line) for line in self._lines.feed(data)]

    def _event(self, line: bytes) -> Event:
        id, self._asked = self._asked, None
        if id is None:
            raise WireError("an answer that nobody asked for")
        answer = parsed(line, refuse_nan=False)
        positions, error = answer.get("positions"), answer.get("error")
        if not isinstance(positions, list):
            raise WireError("an answer must have a list of positions")
        if not positions:
            if error is None:
                return Failed(id, Problem(Trouble.BUSY, "no new chunk"))
            return Failed(id, Problem(Trouble.POLICY_FAILED, str(error)[:300]))
        meta = self._pace(answer)
        try:
            rows = checked_rows(positions, self._width)
        except (InterfaceValidationError, OverflowError) as wrong:
            raise WireError(f"positions: {wrong}") from wrong
        if not np.isfinite(rows).all():
            return Failed(id, Problem(Trouble.POLICY_FAILED, "the answer holds a number that is not finite"))
        return Answered(id, ActionChunk(rows, meta=meta))

    def _pace(self, answer: dict[str, Any]) -> dict[str, float]:
        """What the server says of the rows' rate.

        Raises:
            WireError: nothing, or another rate than the one that was chosen here.
        """
        interval, wanted = answer.get("interval"), self._wire.control_hz
        number = isinstance(interval, (int, float)) and not isinstance(interval, bool)
        if interval is None or not number or not 0 < interval < 10**12:
            raise WireError(f"interval must be a number of nanoseconds above zero, got {interval!r:.60}")
        there_hz = 1e9 / interval
        if wanted is not None and not abs(there_hz - wanted) <= 0.01 * wanted:
            raise WireError(f"the server's rows are for {there_hz:.4g} Hz, control_hz is {wanted:g} Hz")
        return {"interval_s": 1 / there_hz}
