"""InferenceRuntime with its policy in another process, found there by the function's name."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import chunkwise as infra
from chunkwise import plugins
from chunkwise.policies import Recipe
from chunkwise.workers import place

FILE = Path(__file__).parents[1] / "workers" / "elsewhere.py"
act, refuse = (plugins.load("policies", f"{FILE}:{name}") for name in ("act", "refuse"))


def step(runtime: infra.InferenceRuntime, source: Any) -> tuple[float, float]:
    """The action of a step: the number in it, and the process that made it."""
    seen = infra.Frame(state={"arm": np.zeros(2)})
    made = infra.run_step(frame=seen, act_fn=lambda action: None, act_src_fn=source, runtime=runtime)
    number, pid = made.action.commands["arm"].value
    return float(number), float(pid)


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_every_step_has_its_action_and_episodes_share_the_process(mode: str) -> None:
    hints: dict[str, Any] = {} if mode == "sync" else {"enable_rtc": True, "execution_steps": 4}
    with infra.InferenceRuntime(mode, worker="process", **hints) as runtime:
        first = [step(runtime, act) for _ in range(11)]
        runtime.reset()
        second = step(runtime, act)
    assert [number for number, _ in first] == list(range(11)) and second[0] == 0
    pids = {pid for _, pid in [*first, second]}
    assert len(pids) == 1 and pids != {os.getpid()}


def test_what_the_policy_raises_is_the_error_of_the_step() -> None:
    with (
        infra.InferenceRuntime("sync", worker="process") as runtime,
        pytest.raises(infra.PolicyFailed, match="RuntimeError: no"),
    ):
        step(runtime, refuse)


def test_another_function_gets_another_process_and_a_lambda_none() -> None:
    with infra.InferenceRuntime("sync", worker="process") as runtime:
        step(runtime, act)
        with pytest.raises(infra.PolicyFailed, match="RuntimeError: no"):
            step(runtime, refuse)
        with pytest.raises(ValueError, match=r"<lambda> .* cannot be found by its name in another process"):
            step(runtime, lambda frame, request: None)


def test_a_stand_in_may_be_asked_too() -> None:
    policy: Any = place(Recipe(f"{FILE}:act"), "process")
    try:
        with infra.InferenceRuntime("sync", worker="process") as runtime:
            assert step(runtime, policy.infer) == (0.0, policy.host.pid)
        assert policy.host.pid is not None, "it is its maker's to close"
    finally:
        policy.close()
