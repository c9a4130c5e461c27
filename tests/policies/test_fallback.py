"""The second policy answers while the first one fails, and the first one again as soon as it can."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from chunkwise import plugins
from chunkwise.contract import (
    ActionChunk,
    ChunkRequest,
    Frame,
    ImageRule,
    InterfaceValidationError,
    PolicyFailed,
    PolicyOutputSpec,
    PolicySpec,
)
from chunkwise.testing import PolicyConformance

Fallback: Any = plugins.load("policies", "fallback")
SPEC = PolicySpec("a", ["head"], ["arm"], outputs=[PolicyOutputSpec("arm", "joint_position", 2)], control_hz=50.0)


class Says:
    def __init__(self, value: float, **given: Any) -> None:
        self.value, self.spec, self.fails = value, replace(SPEC, **given), False
        self.calls: list[str] = []

    def infer(self, frame: Frame, request: ChunkRequest) -> ActionChunk:
        self.calls.append("infer")
        if self.fails:
            raise PolicyFailed(f"{self.value:g} is away")
        return ActionChunk(np.full((4, 2), self.value))

    def warmup(self) -> None:
        self.calls.append("warmup")

    def reset(self) -> None:
        self.calls.append("reset")

    def close(self) -> None:
        self.calls.append("close")


class TestFallback(PolicyConformance):
    def make_policy(self) -> Any:
        return Fallback(policies=(Says(1.0), Says(2.0)))


def asked(policy: Any) -> ActionChunk:
    answer: ActionChunk = policy.infer(Frame(), ChunkRequest(0))
    return answer


def test_the_second_answers_while_the_first_fails_and_the_first_again_when_it_can(caplog: Any) -> None:
    first, second = Says(1.0), Says(2.0)
    policy = Fallback(policies=(first, second))
    with caplog.at_level(logging.WARNING):
        assert asked(policy).rows[0, 0] == 1.0 and not second.calls
        first.fails = True
        chunk = asked(policy)
        assert chunk.rows[0, 0] == 2.0
        assert chunk.meta["reconnected"], "the delay of the first one says nothing about the second"
        assert "reconnected" not in asked(policy).meta
        first.fails = False
        chunk = asked(policy)
        assert chunk.rows[0, 0] == 1.0 and chunk.meta["reconnected"]
    assert policy.switches == 2
    assert [record.message for record in caplog.records] == [
        "policy 0 failed (1 is away); the next one takes over",
        "policy 1 answers from now on",
        "policy 0 answers from now on",
    ]


def test_when_none_can_the_last_ones_error_is_told() -> None:
    policies = [Says(1.0), Says(2.0), Says(3.0)]
    for each in policies:
        each.fails = True
    with pytest.raises(PolicyFailed, match="3 is away"):
        asked(Fallback(policies=tuple(policies)))


def test_all_of_them_are_warmed_up_reset_and_closed() -> None:
    policies = Says(1.0), Says(2.0)
    policy = Fallback(policies=policies)
    for call in ("warmup", "reset", "close"):
        getattr(policy, call)()
    assert all(each.calls == ["warmup", "reset", "close"] for each in policies)


def test_it_reads_what_any_of_them_reads() -> None:
    other = Says(2.0, required_image_keys=["wrist", "head"], images={"wrist": ImageRule(8, 8)})
    other.spec.supports_prefix = True
    spec = Fallback(policies=(Says(1.0), other)).spec
    assert spec.required_image_keys == ["head", "wrist"]
    assert spec.images == {"wrist": ImageRule(8, 8)}
    assert not spec.supports_prefix


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"outputs": [PolicyOutputSpec("leg", "joint_position", 2)]}, "outputs"),
        ({"outputs": [PolicyOutputSpec("arm", "joint_position", 2, names=["b", "a"])]}, "names differ"),
        ({"control_hz": 30.0}, "control_hz: 50.0 here, 30.0 there"),
    ],
)
def test_a_policy_for_another_robot_is_no_fallback(given: Any, message: str) -> None:
    with pytest.raises(InterfaceValidationError, match=f"policy 1 is no fallback for policy 0: .*{message}"):
        Fallback(policies=(Says(1.0), Says(2.0, **given)))


def test_one_policy_is_no_fallback() -> None:
    with pytest.raises(InterfaceValidationError, match="two policies or more, got 1"):
        Fallback(policies=(Says(1.0),))


def test_policies_may_be_named() -> None:
    policy = Fallback(policies=("wave", {"name": "wave", "rows": 30}))
    assert policy.spec.name == plugins.load("policies", "wave")().spec.name


def test_every_policy_is_let_go_whatever_the_others_do() -> None:
    first, second = Says(1.0), Says(2.0)

    def fails() -> None:
        raise OSError("the link is gone")

    first.close = fails  # type: ignore[method-assign]
    policy = Fallback(policies=(first, second))
    with pytest.raises(OSError, match="the link is gone"):
        policy.close()
    assert second.calls == ["close"]


def test_where_one_cannot_be_made_the_others_are_let_go() -> None:
    first = Says(1.0)
    with pytest.raises(plugins.UnknownAdapter):
        Fallback(policies=(first, "no_such_policy"))
    assert first.calls == ["close"]
    first, other = Says(1.0), Says(2.0, control_hz=20.0)
    with pytest.raises(InterfaceValidationError):
        Fallback(policies=(first, other))
    assert (first.calls, other.calls) == (["close"], ["close"])
