"""Requests, replies and what an engine says of itself: there and back, and anything else a typed error."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chunkwise.contract import ImageRule, PolicyOutputSpec, PolicySpec
from chunkwise.transports._ros2.types import Types
from chunkwise.wires import Offer, Problem, Readiness, Trouble, WireError
from chunkwise.wires._inference_topics import (
    REPLY_ID,
    REQUEST_ID,
    Reply,
    Request,
    offer_fields,
    offer_of,
    reply_fields,
    reply_id,
    reply_of,
    request_fields,
    request_id,
    request_of,
)
from chunkwise.wires._variants import fields_of, message_texts, values_of

TYPES = Types(texts=message_texts("ibrobot_msgs"))
LIST = "ibrobot_msgs/msg/VariantsList"
ROWS = np.arange(6, dtype=np.float32).reshape(2, 3)


def carried(fields: Any) -> Any:
    """The message that comes out of the bytes of one."""
    return TYPES.decode(LIST, TYPES.encode(LIST, fields))


@pytest.mark.parametrize(
    "request_",
    [
        Request("s.0.1", {"observation.state": ROWS}, "s", 3, 0.25, engine="e"),
        Request("s.0.2", {}, "s", 0, None, "hello"),
        Request("", {}, "s", 4, None, "cancel", "s.0.1"),
        Request("", {}, "s", 5, None, "reset"),
    ],
)
def test_a_request_comes_as_it_was_sent(request_: Request) -> None:
    back = request_of(carried(request_fields(request_, packed=True)))
    assert {**request_.batch}.keys() == {**back.batch}.keys()
    for name, value in request_.batch.items():
        assert np.array_equal(back.batch[name], value)
    for name in ("id", "session", "generation", "deadline_s", "operation", "target", "engine"):
        assert getattr(back, name) == getattr(request_, name)


def test_what_is_ours_in_a_request_is_texts_alone_which_the_original_leaves_out() -> None:
    request = Request("s.0.1", {"observation.state": ROWS}, "s", 3, 0.25)
    values = values_of(carried(request_fields(request, packed=False)))
    tensors = {key for key, value in values.items() if isinstance(value, np.ndarray)}
    assert tensors == {"observation.state"} and values[REQUEST_ID] == ("s.0.1",)
    assert all(key.startswith(("task", "observation")) for key in values)


@pytest.mark.parametrize(
    "reply",
    [
        Reply("s.0.1", ROWS, session="s", server_s=0.5, engine="e"),
        Reply("s.0.1", problem=Problem(Trouble.POLICY_FAILED, "RuntimeError: a=b"), session="s"),
        Reply("s.0.1", session="s"),
    ],
)
def test_a_reply_comes_as_it_was_sent(reply: Reply) -> None:
    message = carried(reply_fields(reply))
    back = reply_of(message)
    assert (back.id, back.problem, back.session) == (reply.id, reply.problem, reply.session)
    assert back.engine == reply.engine
    assert (back.rows is None) == (reply.rows is None) and reply_id(message) == "s.0.1"
    if reply.rows is not None:
        assert np.array_equal(back.rows, reply.rows) and back.server_s == reply.server_s


@pytest.mark.parametrize(
    ("action", "shape"), [(ROWS, (2, 3)), (ROWS[None], (2, 3)), (ROWS[0], (1, 3)), (ROWS.astype("f8"), (2, 3))]
)
def test_an_originals_reply_is_rows_however_many_dimensions_it_has(action: Any, shape: Any) -> None:
    back = reply_of(carried(fields_of({"action": action, REPLY_ID: ["x"]})))
    assert back.id == "x" and back.problem is None and back.rows is not None
    assert back.rows.shape == shape and back.rows.dtype == np.float32


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({REPLY_ID: ["x"]}, "without 'action'"),
        ({"action": np.zeros(0, np.float32)}, "numbers with fractions"),
        ({"action": np.zeros(3, np.int32)}, "numbers with fractions"),
        ({"action": ["text"]}, "numbers with fractions"),
        ({"action": np.zeros((2, 2, 2), np.float32)}, r"must be \(rows, dim\)"),
        ({REPLY_ID: ["a", "b"]}, "one text"),
        ({REPLY_ID: ["a" * 200]}, "at most 128"),
        ({"action.chunkwise": ["version=1", "trouble=sad"]}, "trouble 'sad'"),
        ({"action.chunkwise": ["session=s"]}, "another version"),
        ({"action.chunkwise": ["version=1", "session=a", "session=b"]}, "each once"),
        ({"action.chunkwise": np.zeros(1, np.float32)}, "are texts"),
    ],
)
def test_a_reply_that_is_none_is_said(values: Any, message: str) -> None:
    with pytest.raises(WireError, match=message):
        reply_of(carried(fields_of(values)))


def test_an_engine_says_what_it_has() -> None:
    spec = PolicySpec(
        "act network",
        ["observation.images.top"],
        ["observation.state"],
        outputs=[PolicyOutputSpec("action", "joint_position", 6)],
        meta={"network": {"inputs": ["observation.state"], "pictures": []}},
        action_horizon=100,
        images={"observation.images.top": ImageRule(4, 6)},
        normalisation="abc",
    )
    for offer in (
        Offer(Readiness.READY, "", spec, "instance"),
        Offer(Readiness.LOADING, "", None, "instance"),
        Offer(Readiness.FAILED, "no weights", None, "instance"),
    ):
        assert offer_of(carried(offer_fields(offer))) == offer


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "readiness ''"),
        ({"action.chunkwise": ["version=1", "readiness=redy"]}, "did you mean 'ready'"),
        (
            {"action.chunkwise": ["version=1", "readiness=ready"], "action.chunkwise.policy": ["{"]},
            "is no policy",
        ),
        (
            {"action.chunkwise": ["version=1", "readiness=ready"], "action.chunkwise.policy": ["[[]]"]},
            "is no policy",
        ),
    ],
)
def test_what_no_engine_says_is_refused(values: Any, message: str) -> None:
    with pytest.raises(WireError, match=message):
        offer_of(carried(fields_of(values)))


KEYS = st.sampled_from(
    [
        *("observation.state", "action", REQUEST_ID, REPLY_ID, "task", "task.chunkwise", "action.chunkwise"),
        *("action.chunkwise.policy", "x"),
    ]
)
TEXTS = st.lists(
    st.one_of(
        st.text(max_size=8),
        st.sampled_from(
            ["version=1", "session=s", "generation=1", "deadline_s=1", "operation=infer", "readiness=ready", "{}"]
        ),
    ),
    max_size=4,
)
TENSORS = st.sampled_from(
    [np.zeros((2, 3), np.float32), np.zeros(0), np.zeros((1, 0), np.int64), np.ones(2, bool)]
)


@given(st.dictionaries(KEYS, st.one_of(TEXTS, TENSORS), max_size=5))
def test_anything_is_a_message_or_a_typed_error(values: Any) -> None:
    message = carried(fields_of(values))
    assert isinstance(request_id(message), str) and isinstance(reply_id(message), str)
    for read in (request_of, reply_of, offer_of):
        with suppress(WireError):
            read(message)
