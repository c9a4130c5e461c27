"""What every policy keeps, as checks: inherit, say how yours is made, and run them with pytest."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from chunkwise.chunking import prefix_weights
from chunkwise.contract import (
    ActionChunk,
    ChunkRequest,
    Frame,
    InterfaceValidationError,
    PolicySpec,
    RobotSpec,
    connect,
    robot_for,
)
from chunkwise.policies import BoundPolicy, Policy, shown


class PolicyConformance:
    """What every policy keeps.

    ::

        class TestMine(PolicyConformance):
            def make_policy(self) -> Policy:
                return Mine()

    A robot is made up from the policy's own spec.  A policy without a spec, or one that reads state which its
    spec does not size, overrides :meth:`robot_spec` or :meth:`make_frame` as well.
    """

    def make_policy(self) -> Policy:
        """The policy under test; override this."""
        raise NotImplementedError("override make_policy()")

    def robot_spec(self, policy: Policy) -> RobotSpec:
        """A robot that the policy can drive."""
        spec = getattr(policy, "spec", None)
        assert isinstance(spec, PolicySpec), "a policy without a spec is tested with a robot_spec() of your own"
        return robot_for(spec)

    def make_frame(self, policy: Policy) -> Frame:
        """An observation of that robot, the same one every time."""
        spec: PolicySpec | None = getattr(policy, "spec", None)
        return frame_of(self.robot_spec(policy), spec.required_task_keys if spec else [])

    def test_is_a_policy(self) -> None:
        with self._policy() as policy:
            assert isinstance(policy, Policy), "a policy has infer(frame, request)"

    def test_answers_match_the_spec(self) -> None:
        with self._bound() as (bound, frame):
            spec = bound.binding.policy
            for step in (0, 7, 4000):
                chunk = self._answer(bound, frame, ChunkRequest(step))
                assert np.isfinite(chunk.rows).all(), "an answer holds finite numbers"
                if spec.action_horizon is not None:
                    assert len(chunk.rows) == spec.action_horizon, (
                        f"the spec declares {spec.action_horizon} rows, the answer has {len(chunk.rows)}"
                    )
                first = chunk.first_step
                assert first is None or first >= step, "an answer does not start before its request"

    def test_answers_come_from_the_frame_and_the_request_alone(self) -> None:
        with self._bound() as (bound, frame):
            shape = self._answer(bound, frame, ChunkRequest(3)).rows.shape
            for request in (ChunkRequest(3), ChunkRequest(500), ChunkRequest(3)):
                again = self._answer(bound, frame, request).rows
                assert again.shape == shape, "calls may be repeated, skipped and out of order"

    def test_inputs_are_left_alone(self) -> None:
        with self._bound() as (bound, frame):
            prefix = self._answer(bound, frame, ChunkRequest(0)).rows.copy()
            request = _with_prefix(prefix, 2)
            before = copy.deepcopy((frame, request))
            bound.policy.infer(frame, request)
            same = all(
                np.array_equal(now[key], was[key])
                for now, was in ((frame.state, before[0].state), (frame.images, before[0].images))
                for key in was
            )
            assert same and frame.task == before[0].task, "a policy leaves its frame as it was"
            assert np.array_equal(_rows(request.prefix), _rows(before[1].prefix)), (
                "a policy leaves its prefix alone"
            )

    def test_takes_any_prefix(self) -> None:
        with self._bound() as (bound, frame):
            plan = self._answer(bound, frame, ChunkRequest(0)).rows
            for rows in (len(plan), max(len(plan) // 2, 1), 1, 0):
                for delay in (0, 1, rows):
                    chunk = self._answer(bound, frame, _with_prefix(plan[:rows], delay))
                    assert chunk.rows.shape == plan.shape and np.isfinite(chunk.rows).all(), (
                        f"a prefix of {rows} rows with a delay of {delay} steps is answered like any other request"
                    )
            plain = self._answer(bound, frame, ChunkRequest(0))
            assert plain.rows.shape == plan.shape, "a request without a prefix is answered after one that had one"

    def test_answers_do_not_share_memory(self) -> None:
        with self._bound() as (bound, frame):
            first = _array(bound.policy.infer(shown(bound.binding, frame), ChunkRequest(0)))
            before = None if first is None else first.copy()
            for step in (10, 20):
                bound.policy.infer(shown(bound.binding, frame), ChunkRequest(step))
            assert first is None or before is None or np.array_equal(first, before), (
                "an answer is not written again after it was given"
            )

    def test_reset_makes_it_ready_for_the_next_episode(self) -> None:
        with self._bound() as (bound, frame):
            for name in ("warmup", "reset", "reset"):
                optional = getattr(bound.policy, name, None)
                if optional is not None:
                    optional()
                rows = self._answer(bound, frame, ChunkRequest(0)).rows
                assert np.isfinite(rows).all(), f"a policy answers after {name}()"

    def test_close_may_be_repeated(self) -> None:
        close = getattr(self.make_policy(), "close", None)
        if close is None:
            return
        try:
            close()
            close()
        except Exception as error:
            raise AssertionError("closing twice is fine") from error

    @contextmanager
    def _policy(self) -> Iterator[Policy]:
        policy = self.make_policy()
        try:
            yield policy
        finally:
            close = getattr(policy, "close", None)
            if close is not None:
                close()

    @contextmanager
    def _bound(self) -> Iterator[tuple[BoundPolicy, Frame]]:
        with self._policy() as policy:
            spec = getattr(policy, "spec", None)
            assert isinstance(spec, PolicySpec), "a policy declares a PolicySpec"
            try:
                binding = connect(self.robot_spec(policy), spec)
            except InterfaceValidationError as error:
                raise AssertionError(f"a policy's spec binds to a robot made up from it: {error}") from error
            yield BoundPolicy(policy, binding), self.make_frame(policy)

    @staticmethod
    def _answer(bound: BoundPolicy, frame: Frame, request: ChunkRequest) -> ActionChunk:
        try:
            return bound(frame, request)
        except InterfaceValidationError as error:
            raise AssertionError(f"an answer matches the policy's spec: {error}") from error
        except Exception as error:
            raise AssertionError(f"a policy answers a legal request, it raised {error!r}") from error


def frame_of(robot: RobotSpec, tasks: list[str] | None = None, *, height: int = 48, width: int = 64) -> Frame:
    """An observation with everything the robot declares: zeros, and grey images of ``height x width``."""
    state: dict[str, Any] = {component.name: np.zeros(component.dof) for component in robot.components}
    state |= {key: np.zeros(1) for key in robot.state_keys}
    images: dict[str, Any] = {key: np.full((height, width, 3), 128, dtype=np.uint8) for key in robot.image_keys}
    return Frame(images, state, dict.fromkeys(tasks or [], ""), timestamp_ns=1, sequence_id=0)


def _with_prefix(prefix: Any, delay: int) -> ChunkRequest:
    return ChunkRequest(
        0,
        active_chunk_length=len(prefix),
        remaining_steps=len(prefix),
        latency_steps=delay,
        inference_delay=delay,
        execute_horizon=max(delay, 1),
        prefix=prefix,
        prefix_weights=prefix_weights(delay, len(prefix)),
    )


def _rows(prefix: Any) -> Any:
    assert prefix is not None
    return prefix


def _array(answer: object) -> Any:
    rows = answer.rows if isinstance(answer, ActionChunk) else answer
    return rows if isinstance(rows, np.ndarray) else None
