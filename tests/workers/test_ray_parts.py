"""What the Ray worker is made of, as far as it needs no Ray."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chunkwise.contract import ChunkRequest, Frame
from chunkwise.contract.packing import Unpacker
from chunkwise.options import UsageError
from chunkwise.policies import Recipe
from chunkwise.workers._ray_actor import PolicyActor, owned, seen
from chunkwise.workers._ray_client import amounts, require_node
from chunkwise.workers._trees import answer_of, asked, spec_of

ELSEWHERE = Path(__file__).with_name("elsewhere.py")
STATE = {"arm": np.array([1.0, 2.0])}


def boot(recipe: Recipe) -> dict[str, Any]:
    return {"recipe": recipe.to_dict(), "kinds": [], "threads": 1}


def tree_of(data: bytes) -> dict[str, Any]:
    return Unpacker()(memoryview(data))


@pytest.fixture
def actor() -> PolicyActor:
    made = PolicyActor("/nowhere/at/all", ["/nowhere/either"])
    said = tree_of(made.ask({"call": "make", "id": 3, "slots": 0, **boot(Recipe(f"{ELSEWHERE}:Mirror"))}))
    assert said["id"] == 3 and spec_of(said["spec"]) is not None
    return made


def test_resources_are_names_with_or_without_an_amount() -> None:
    assert amounts(("inference_pc", "arm=0.5")) == {"inference_pc": 1.0, "arm": 0.5}
    for wrong in ("", "=1", "arm=0", "arm=-1", "arm=inf", "arm=nan", "arm=two"):
        with pytest.raises(UsageError, match="an amount above 0"):
            amounts((wrong,))


def node(address: str, **resources: float) -> dict[str, Any]:
    return {"NodeManagerAddress": address, "Resources": {f"node:{address}": 1.0, "memory": 2.0**31, **resources}}


def test_a_node_must_have_everything_at_once() -> None:
    nodes = [node("10.0.0.1", CPU=8.0), node("10.0.0.2", CPU=2.0, GPU=1.0, inference_pc=1.0)]
    require_node({"CPU": 8.0}, nodes)
    require_node({"CPU": 1.0, "GPU": 1.0, "inference_pc": 0.5}, nodes)
    with pytest.raises(UsageError, match=r"has CPU 4, GPU 1; there are 10.0.0.1: CPU 8, memory 2.0 GiB; 10.0.0.2"):
        require_node({"CPU": 4.0, "GPU": 1.0}, nodes)
    with pytest.raises(UsageError, match=r"did you mean 'inference_pc'\?"):
        require_node({"inference_cp": 1.0}, nodes)


def test_an_inference_of_the_actor(actor: PolicyActor) -> None:
    frame, request = Frame(state=STATE), ChunkRequest(4, id=9)
    answer = answer_of(tree_of(actor.infer({"of": 0, "asked": asked(frame, request)}))["answer"])
    assert answer.rows.tolist() == [[1.0, 2.0]]
    other = tree_of(actor.infer({"of": 5, "asked": asked(frame, request)}))
    assert answer_of(other["answer"]).meta["calls"] == ["session"]


def test_an_error_is_an_answer_with_its_traceback(actor: PolicyActor) -> None:
    said = tree_of(actor.infer({"of": 0, "asked": asked(Frame(), ChunkRequest(0))}))["error"]
    assert said["kind"] == "KeyError" and "in infer" in said["trace"]


def test_pictures_stay_where_they_are_and_the_rest_is_the_policys_own() -> None:
    image, state = np.zeros((2, 2, 3), dtype=np.uint8), np.array([1.0])
    for array in (image, state):
        array.flags.writeable = False
    frame, _ = seen(asked(Frame({"eye": image}, {"arm": state}), ChunkRequest(0)))
    assert np.shares_memory(frame.images["eye"], image) and not frame.images["eye"].flags.writeable
    assert not np.shares_memory(frame.state["arm"], state) and frame.state["arm"].flags.writeable
    assert owned({"a": [state], "b": "text"})["a"][0].flags.writeable
