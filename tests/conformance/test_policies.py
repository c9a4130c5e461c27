"""Every policy there is keeps the contract of a policy."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from chunkwise import plugins
from chunkwise.contract import BindingError, Frame, RobotSpec, connect
from chunkwise.policies import Policy
from chunkwise.testing import PolicyConformance


@pytest.mark.usefixtures("adapter")
class TestPolicies(PolicyConformance):
    kind = "policies"
    adapter: Any

    def make_policy(self) -> Policy:
        return self.adapter()

    def robot_spec(self, policy: Policy) -> RobotSpec:
        return _seen(policy)[0] if _reads_more_than_joints(policy) else super().robot_spec(policy)

    def make_frame(self, policy: Policy) -> Frame:
        return _seen(policy)[1] if _reads_more_than_joints(policy) else super().make_frame(policy)


def _reads_more_than_joints(policy: Policy) -> bool:
    """Whether it reads images or state that its spec does not size."""
    spec: Any = getattr(policy, "spec", None)
    if spec is None:
        return True
    if type(policy).__name__ in ("Network", "Distributed"):
        return False  # those of these tests read what the kit makes up
    sized = {output.target for output in spec.outputs} | set(spec.state_names)
    return bool(spec.required_image_keys) or not set(spec.required_state_keys) <= sized


_frames: dict[str, tuple[RobotSpec, Frame]] = {}


def _seen(policy: Policy) -> tuple[RobotSpec, Frame]:
    """The first robot that the policy fits, and one observation of it; taken once for all checks."""
    spec: Any = getattr(policy, "spec", None)
    name = type(policy).__name__
    if name in _frames:
        return _frames[name]
    for robot_name in plugins.names("robots"):
        try:
            made = plugins.load("robots", robot_name)
        except plugins.MissingExtra:
            continue
        parameters = inspect.signature(made).parameters
        if any(item.default is item.empty for item in parameters.values()):
            continue  # a robot that is not there without being told which
        if robot_name in ("dora", "lerobot", "igris_b", "igris_c"):
            continue  # robots that are there in a dataflow only, or where one is plugged in
        robot = made(**({"lockstep": True} if "lockstep" in parameters else {}))
        try:
            connect(robot.spec, spec)
            robot.connect()
            _frames[name] = robot.spec, robot.observe()
            return _frames[name]
        except BindingError:
            continue
        finally:
            robot.close()
    raise AssertionError(f"no robot here offers what policy {name!r} reads")
