"""One client's conversation: its policy state, its binding, its place in the queue."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from chunkwise.contract import (
    ActionChunk,
    Binding,
    ChunkRequest,
    Frame,
    InterfaceValidationError,
    PolicySpec,
    RobotSpec,
    connect,
    observation_problems,
    robot_for,
    spec_of_answer,
)
from chunkwise.policies import Policy, shown
from chunkwise.processing.errors import ProcessingError
from chunkwise.server.inference import Batch, Done, Inference, Job, Refused, Seat
from chunkwise.wires import NO_SPEC, Infer, Problem, Trouble, WireError

if TYPE_CHECKING:
    from chunkwise.server.player import Player

MAX_RATE_HZ = 1000.0
"""Requests per second of one session, on average over a second."""


class Session:
    """One client's conversation with the policy.

    Args:
        name: its own, or one drawn for it.
        policy: its own state of the policy, or the shared one.
        inference: runs it.
        batch: runs requests of several sessions at once; None where the policy cannot, or remembers things.
        alone: no other client shares the policy, so it may be told its robot.

    Attributes:
        binding: of the policy to the client's robot; None before it is known.
        player: schedules for the client, where it needs that.
        owners: connections that use it.
        idle_since_s: when the last of them left, or the last call came.
    """

    def __init__(
        self, name: str, policy: Policy, inference: Inference, batch: Batch | None = None, *, alone: bool = False
    ) -> None:
        self.name, self.policy, self._alone = name, policy, alone
        self._inference, self._batch = inference, batch
        self._seat = Seat(strict=alone or getattr(policy, "reset", None) is not None)
        self._jobs: dict[tuple[int, int], Job] = {}
        self._robot: RobotSpec | None = None
        self.binding: Binding | None = None
        self.player: Player | None = None
        self.owners = 0
        self.idle_since_s = 0.0
        self._allowance, self._counted_s = MAX_RATE_HZ, 0.0
        self._resetting: list[Done] = []

    def bind(self, robot: RobotSpec | None) -> None:
        """Bind the policy to a robot by name; None for a client that has bound it already.

        A policy without a spec is bound once its first answer gives one.

        Raises:
            Refused: they do not fit; the text names what is missing.
        """
        if robot is not None and self._robot == robot:
            return
        binding = None
        try:
            meet = getattr(self.policy, "meet", None)
            if self._alone and robot is not None and meet is not None:
                meet(robot)
            spec = getattr(self.policy, "spec", None)
            if isinstance(spec, PolicySpec):
                binding = connect(robot or robot_for(spec), spec)
        except InterfaceValidationError as error:
            raise Refused(Problem(Trouble.MISMATCH, str(error))) from error
        self._robot, self.binding = robot, binding  # a robot that does not fit is refused every time it comes

    def admit(self, now_s: float) -> None:
        """Count a request.

        Raises:
            Refused: there were too many in the last second.
        """
        self._allowance = min(self._allowance + (now_s - self._counted_s) * MAX_RATE_HZ, MAX_RATE_HZ)
        self._counted_s = self.idle_since_s = now_s
        if self._allowance < 1:
            raise Refused(Problem(Trouble.BUSY, f"more than {MAX_RATE_HZ:g} requests per second"))
        self._allowance -= 1

    def infer(self, call: Infer, done: Done, deadline_s: float, owner: int = 0) -> None:
        """Queue a request.

        Args:
            call: the request.
            done: told the chunk, in the robot's column order, or the problem; on the event loop.
            deadline_s: after so long it is told that it was too late.
            owner: number of the connection, whose call numbers are its own; -1 for what schedules here, which asks
                again when an answer is late, and knows late ones.
        """

        def finished(result: Any) -> None:
            if self._jobs.get((owner, call.id)) is job:  # else its number was used again
                del self._jobs[owner, call.id]
            done(result)

        kind = None if self._batch is None else self._batch.kind(call.frame)
        job = Job(lambda: self.answer(self.complete(call)), finished, self._batch, kind, (self, call))
        job.ordered = owner >= 0
        self._jobs[owner, call.id] = job
        self._inference.submit(self._seat, job, deadline_s)

    def cancel(self, target: int, owner: int = 0) -> None:
        """The answer to a request is no longer wanted."""
        job = self._jobs.get((owner, target))
        if job is not None:
            self._inference.withdraw(self._seat, job, Problem(Trouble.CANCELLED, "cancelled by the client"))

    def abandon(self, owner: int) -> None:
        """Nobody waits for the answers of this connection any more."""
        for job in [job for (who, _), job in self._jobs.items() if who == owner]:
            self._inference.withdraw(self._seat, job, Problem(Trouble.CANCELLED, "the client has gone"))

    def reset(self, done: Done) -> None:
        """Begin an episode: what waits is given up, and the policy forgets this client."""
        self._inference.withdraw(self._seat, None, Problem(Trouble.CANCELLED, "an episode began"))
        self._resetting.append(done)
        if len(self._resetting) == 1:  # one that waits already does for all
            self._inference.submit_first(Job(self._forget, self._told_reset), self._seat)

    def close(self) -> None:
        """Let its own state of the policy go."""
        close = getattr(self.policy, "close", None)
        if close is not None:
            self._inference.submit_first(Job(close, lambda result: None), self._seat)

    @property
    def waits(self) -> bool:
        """Whether somebody waits for an answer."""
        return bool(self._jobs) or (self.player is not None and self.player.waits)

    def _told_reset(self, result: Any) -> None:
        waiting, self._resetting = self._resetting, []
        for done in waiting:
            done(result)

    def _forget(self) -> None:
        reset = getattr(self.policy, "reset", None)
        if reset is not None:
            reset()

    # On the inference thread ----------------------------------------------------------------------------------

    @staticmethod
    def complete(call: Infer) -> tuple[Frame, ChunkRequest]:
        """The frame with its images, and the request.

        Raises:
            Refused: an image is none.
        """
        try:
            return (call.frame if call.complete is None else call.complete()), call.request
        except WireError as error:
            raise Refused(Problem(Trouble.MALFORMED, str(error))) from error

    def answer(self, asked: tuple[Frame, ChunkRequest]) -> ActionChunk:
        """The policy's answer to a frame and a request, checked and in the robot's column order.

        Raises:
            Refused: the frame is not what the policy needs.
            Exception: whatever the policy raises.
        """
        began_s = time.perf_counter()
        frame, request = self.prepare(asked)
        answer = self.policy.infer(frame, request)
        return self.finish(answer, time.perf_counter() - began_s)

    def prepare(self, asked: tuple[Frame, ChunkRequest]) -> tuple[Frame, ChunkRequest]:
        """Frame and request as the policy reads them, once it is known that they are what it needs."""
        frame, request = asked
        binding = self.binding
        if binding is None:
            return frame, request
        spec = binding.policy
        problems = [f"camera {name!r} is missing" for name in spec.required_image_keys if name not in frame.images]
        problems += [f"state {name!r} is missing" for name in spec.required_state_keys if name not in frame.state]
        for name, order in spec.state_names.items():
            if name in frame.state and frame.state[name].shape != (len(order),):
                problems.append(f"state {name!r} has shape {frame.state[name].shape}, needs {len(order)} joints")
        problems = problems or observation_problems(binding.robot, frame, every_component=False)
        if request.prefix is not None and request.prefix.shape[1] != len(binding.columns):
            problems.append(f"the prefix has {request.prefix.shape[1]} columns, needs {len(binding.columns)}")
        if problems:
            raise Refused(Problem(Trouble.MALFORMED, "; ".join(problems)))
        try:
            return shown(binding, frame), binding.request(request)
        except ProcessingError as error:
            raise Refused(Problem(Trouble.MALFORMED, str(error))) from error

    def finish(self, answer: object, took_s: float) -> ActionChunk:
        """What the policy returned, as a chunk in the robot's order.

        Raises:
            InterfaceValidationError: it is none, or holds a number that is not finite.
        """
        if self.binding is None:
            if self._robot is None:
                text = f"the client has not said what robot it drives, and {NO_SPEC}"
                raise Refused(Problem(Trouble.MISMATCH, text))
            self.binding = connect(self._robot, spec_of_answer(self._robot, answer, type(self.policy).__name__))
        chunk = self.binding.chunk(answer)
        if not np.isfinite(chunk.rows).all():
            row, column = (int(index[0]) for index in np.nonzero(~np.isfinite(chunk.rows)))
            name, value = self.binding.layout.names[column], chunk.rows[row, column]
            raise InterfaceValidationError(f"the policy answered {value} for {name} in row {row}")
        chunk.meta["server_s"] = took_s
        return chunk


def batch_of(policy: Policy) -> Batch | None:
    """How requests of several sessions are answered at once; None where the policy does not say that it can."""
    most, infer_many = getattr(policy, "max_batch", 1), getattr(policy, "infer_many", None)
    if infer_many is None or most < 2:
        return None

    def run(arguments: Sequence[tuple[Session, Infer]]) -> list[Any]:
        results: list[Any] = [None] * len(arguments)
        prepared: list[tuple[int, tuple[Frame, ChunkRequest]]] = []
        for index, (session, call) in enumerate(arguments):
            try:
                prepared.append((index, session.prepare(session.complete(call))))
            except Exception as error:  # noqa: BLE001  one client's mistake is not another's
                results[index] = error
        began_s = time.perf_counter()
        answers = list(infer_many([asked for _, asked in prepared])) if prepared else []
        if len(answers) != len(prepared):
            raise InterfaceValidationError(f"infer_many gave {len(answers)} answers to {len(prepared)} calls")
        took_s = time.perf_counter() - began_s
        for (index, _), answer in zip(prepared, answers, strict=True):
            try:
                if isinstance(answer, Exception):
                    raise answer
                results[index] = arguments[index][0].finish(answer, took_s)
            except Exception as error:  # noqa: BLE001  one client's mistake is not another's
                results[index] = error
        return results

    return Batch(run, most, getattr(policy, "kind_of", lambda frame: None))
