from __future__ import annotations

from typing import Any, NoReturn

import numpy as np
import pytest

from chunkwise.chaos.policy import EXIT_CODE, ORDERS, FaultyPolicy, hold_interpreter
from chunkwise.contract import ChunkRequest, Frame
from chunkwise.options import UsageError
from chunkwise.policies import Recipe

OPTIONS = {"components": "arm:2", "rows": 5}


def ended(code: int) -> NoReturn:
    raise SystemExit(code)


def frame(*orders: dict[str, Any]) -> Frame:
    return Frame(state={"arm": np.zeros(2)}, task={"prompt": "wave"} | ({ORDERS: list(orders)} if orders else {}))


def policy(**options: Any) -> Any:
    return FaultyPolicy(name="wave", options=OPTIONS, **options)


def test_without_orders_it_is_the_other_policy() -> None:
    made = policy()
    assert made.spec.name == "wave"
    assert made.infer(frame(), ChunkRequest(0)).rows.shape == (5, 2)
    made.reset()
    assert not hasattr(made, "session") and not hasattr(made, "infer_many"), "these would go past the faults"
    assert not hasattr(made, "meet")


def test_it_is_made_by_its_name_and_the_other_one_gets_its_rate() -> None:
    recipe = Recipe(
        "chunkwise.chaos.policy:FaultyPolicy", {"name": "wave", "options": OPTIONS}, {"control_hz": 20.0}
    )
    assert recipe.make().spec.control_hz == 20.0


def test_an_option_that_the_other_one_does_not_have_is_refused() -> None:
    with pytest.raises(UsageError, match=r"policy wave has no option 'rwos' \(did you mean 'rows'\?\)"):
        FaultyPolicy(name="wave", options={"rwos": 3})


def test_the_other_policy_does_not_see_the_orders() -> None:
    made = policy(sleep=lambda seconds: None)
    seen: list[Frame] = []
    made._policy.infer = lambda given, request: seen.append(given)
    given = frame({"harm": "stall", "left_s": 1.0})
    made.infer(given, ChunkRequest(0))
    assert seen[0].task == {"prompt": "wave"}
    assert ORDERS in given.task, "the frame is the loop's"


def test_it_blocks_holds_raises_and_ends_as_it_is_told() -> None:
    slept: list[float] = []
    made = policy(sleep=slept.append, hold=lambda seconds: slept.append(-seconds), end=ended)
    made.infer(frame({"harm": "stall", "left_s": 1.5}, {"harm": "busy", "hold_s": 0.1}), ChunkRequest(0))
    assert slept == [1.5, -0.1]
    with pytest.raises(RuntimeError, match="on purpose"):
        made.infer(frame({"harm": "raise"}), ChunkRequest(0))
    with pytest.raises(SystemExit) as caught:
        made.infer(frame({"harm": "raise"}, {"harm": "crash"}), ChunkRequest(0))
    assert caught.value.code == EXIT_CODE


@pytest.mark.parametrize("bare", [False, True])
def test_its_answers_are_spoilt_as_it_is_told(bare: bool) -> None:
    made = policy()
    good = made._policy.infer(frame(), ChunkRequest(0)).rows
    if bare:
        made._policy.infer = lambda given, request: good
    orders = [{"harm": "nan"}, {"harm": "wrong_shape"}]
    for chosen, shape, finite in (
        (orders[:1], (5, 2), False),
        (orders[1:], (5, 3), True),
        (orders, (5, 3), False),
    ):
        answer = made.infer(frame(*chosen), ChunkRequest(0))
        rows = answer if bare else answer.rows
        assert rows.shape == shape
        assert np.isfinite(rows).all() == finite
    assert np.isfinite(good).all(), "what the policy keeps is its own"


def test_a_held_interpreter_is_given_back() -> None:
    hold_interpreter(0.001)
