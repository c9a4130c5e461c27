"""What a replica on a Ray cluster is made of, as far as it needs no Ray; and a replica, by a stand-in for it."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from chunkwise import plugins
from chunkwise.contract import ChunkRequest, Frame
from chunkwise.contract.packing import Unpacker
from chunkwise.policies import Recipe
from chunkwise.workers._ray_model import Closed, Model
from chunkwise.workers._ray_replica import OWNERS, Replica, end
from chunkwise.workers._trees import answer_of, asked, spec_of

ELSEWHERE = Path(__file__).with_name("elsewhere.py")
ON_NODES = Path(__file__).parents[1] / "cluster" / "on_nodes.py"


def model_of(name: str) -> Model:
    return Model(boot_of(name), "/nowhere", [])


def boot_of(name: str) -> dict[str, Any]:
    return {"recipe": Recipe(name).to_dict(), "kinds": [], "threads": 1}


def tree_of(data: bytes) -> dict[str, Any]:
    return Unpacker()(memoryview(data))


def trees(steps: list[int]) -> list[dict[str, Any]]:
    frame = Frame(state={"arm": np.zeros(3)})
    return [asked(frame, ChunkRequest(step, id=step)) for step in steps]


def test_what_came_together_is_answered_in_one_call_and_in_its_order() -> None:
    model = model_of(f"{ON_NODES}:Together")
    answers = [answer_of(tree_of(each)["answer"]) for each in model.answers(trees([3, 1, 2]))]
    assert [answer.rows[0, 0] for answer in answers] == [3.0, 1.0, 2.0]
    assert {answer.rows[0, 1] for answer in answers} == {3}


def test_one_request_that_fails_is_not_anothers() -> None:
    first, wrong, last = map(tree_of, model_of(f"{ON_NODES}:Together").answers(trees([0, -1, 2])))
    assert answer_of(first["answer"]).rows[0, 0] == 0.0 and answer_of(last["answer"]).rows[0, 0] == 2.0
    assert wrong["error"]["text"] == "no such step: -1"


def test_a_policy_without_infer_many_answers_one_by_one() -> None:
    said = model_of(f"{ELSEWHERE}:refuse").answers(trees([0, 1]))
    assert [tree_of(each)["error"]["text"] for each in said] == ["no", "no"]
    (left,) = model_of(f"{ELSEWHERE}:sys_exit").answers(trees([0]))
    assert tree_of(left)["error"]["kind"] == "SystemExit"


@pytest.mark.parametrize(
    ("infer_many", "words"),
    [(lambda calls: 1 / 0, "division by zero"), (lambda calls: [None], "1 answers to 2 calls")],
)
def test_a_call_that_fails_is_told_to_all_of_it(infer_many: Any, words: str) -> None:
    model = model_of(f"{ON_NODES}:Together")
    model._policy.infer_many = infer_many
    assert all(words in tree_of(each)["error"]["text"] for each in model.answers(trees([0, 1])))


def test_what_is_no_answer_is_an_error_of_its_request_alone() -> None:
    model = model_of(f"{ON_NODES}:Together")
    model._policy.infer_many = lambda calls: [None, np.zeros((1, 3))]
    wrong, right = map(tree_of, model.answers(trees([0, 1])))
    assert "infer() returned None" in wrong["error"]["text"] and "answer" in right


@pytest.mark.parametrize(
    ("name", "remembers", "most"),
    [("scripted", True, 1), (f"{ON_NODES}:Together", False, 8), (f"{ELSEWHERE}:refuse", False, 1)],
)
def test_it_says_what_the_policy_is(name: str, remembers: bool, most: int) -> None:
    said = model_of(name).said()
    assert said["remembers"] is remembers and said["max_batch"] == most
    assert (spec_of(said["spec"]) is None) == (name == f"{ELSEWHERE}:refuse")


def test_a_policy_that_cannot_be_made_says_why() -> None:
    with pytest.raises(RuntimeError, match=r"(?s)in __init__.*the weights are for another robot"):
        model_of(f"{ELSEWHERE}:Raises")
    with pytest.raises(RuntimeError, match=r"^UnknownAdapter: .* 'wavy' \(did you mean 'wave'\?\)"):
        model_of("wavy")


# A replica, with a stand-in for Ray Serve ----------------------------------------------------------------------


class Serve:
    """Ray Serve, as far as a replica needs it: what it keeps of models, and the replica's rank."""

    def __init__(self, rank: int) -> None:
        self._rank = rank
        self.kept: dict[str, Any] = {}

    def get_replica_context(self) -> Any:
        return SimpleNamespace(rank=SimpleNamespace(rank=self._rank))

    def multiplexed(self, max_num_models_per_replica: int) -> Any:
        turn = asyncio.Lock()

        def decorated(make: Any) -> Any:
            async def kept(name: str) -> Any:
                if name in self.kept:
                    self.kept[name] = self.kept.pop(name)
                    return self.kept[name]
                async with turn:
                    if len(self.kept) == max_num_models_per_replica:
                        oldest = self.kept.pop(next(iter(self.kept)))
                        await asyncio.get_running_loop().run_in_executor(None, oldest.__del__)
                    self.kept[name] = await make(name)
                    return self.kept[name]

            return kept

        return decorated


def played(monkeypatch: Any, story: Any, most: int, rank: int = 0, gate: Path | None = None) -> None:
    """A story with a replica of three checkpoints, of which one can only be made while somebody holds its gate."""
    serve = Serve(rank)
    monkeypatch.setattr(plugins, "require", lambda name, extra: serve)
    boots = {}
    for number, name in enumerate(("kitchen", "bench", "line")):
        options: dict[str, Any] = {"number": number}
        if gate is not None and name == "line":
            options["gate"] = str(gate)
        recipe = Recipe(f"{ON_NODES}:Checkpoint", options).to_dict()
        boots[name] = {"recipe": recipe, "kinds": [], "threads": 1}

    async def begin() -> None:
        replica = Replica(boots, most, "/nowhere", [], "", 60.0, 60.0)
        await replica.reconfigure({})
        await story(replica)
        replica.__del__()

    asyncio.run(begin())


async def number_of(replica: Replica, name: str, waits: bool = True) -> float | None:
    packed = (await replica.infer_together(trees([0]), name, waits)).packed
    return None if packed is None else float(answer_of(tree_of(packed[0])["answer"]).rows[0, 0])


@pytest.mark.parametrize(
    ("most", "rank", "there"),
    [
        (3, 1, {"kitchen", "bench", "line"}),
        (2, 0, {"kitchen", "bench"}),
        (2, 1, {"line", "kitchen"}),
        (1, 5, {"line"}),
    ],
)
def test_replicas_begin_with_what_there_is_room_for(
    monkeypatch: Any, most: int, rank: int, there: set[str]
) -> None:
    async def story(replica: Replica) -> None:
        (name, *_) = there
        assert set((await replica.infer_together(trees([0]), name, False)).there) == there

    played(monkeypatch, story, most, rank)


def test_a_model_makes_room_for_the_next_one(monkeypatch: Any) -> None:
    async def story(replica: Replica) -> None:
        assert await number_of(replica, "bench") == 1.0
        assert await number_of(replica, "kitchen") == 0.0  # asked for last
        assert await number_of(replica, "line", waits=False) is None
        assert await number_of(replica, "line") == 2.0
        assert await number_of(replica, "bench", waits=False) is None
        assert await number_of(replica, "kitchen", waits=False) == 0.0

    played(monkeypatch, story, most=2)


def test_who_waits_for_a_model_shares_one_load_and_delays_nobody(monkeypatch: Any, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)

    async def story(replica: Replica) -> None:
        waiting = [asyncio.ensure_future(number_of(replica, "line")) for _ in range(3)]
        waiting[0].cancel()  # who gives up ends it for nobody else
        for _ in range(5):
            assert await number_of(replica, "bench", waits=False) == 1.0
        assert not waiting[1].done()
        opened = os.open(gate, os.O_RDWR)
        assert await asyncio.gather(*waiting[1:]) == [2.0, 2.0]
        os.close(opened)

    played(monkeypatch, story, most=2, gate=gate)


def test_a_model_that_made_room_meanwhile_is_loaded_again(monkeypatch: Any) -> None:
    async def story(replica: Replica) -> None:
        hosted = await replica._model("kitchen")
        serve: Any = replica._serve
        hosted.close()
        assert serve.kept.pop("kitchen") is hosted
        with pytest.raises(Closed):
            await hosted.answers(trees([0]))
        assert await number_of(replica, "kitchen", waits=False) is None
        assert await number_of(replica, "kitchen") == 0.0

    played(monkeypatch, story, most=3)


def test_a_model_that_cannot_be_made_is_told_to_who_waits_and_costs_no_other(monkeypatch: Any) -> None:
    async def story(replica: Replica) -> None:
        with pytest.raises(RuntimeError, match=r"no option 'nubmer'"):
            replica._boots["line"]["recipe"]["options"] = {"nubmer": 3}  # type: ignore[index]
            await number_of(replica, "line")
        assert await number_of(replica, "bench") == 1.0

    played(monkeypatch, story, most=2)


@pytest.mark.parametrize(
    ("others", "applications", "done"),
    [
        ([], ["mine"], ["shutdown"]),
        ([], ["mine", "theirs"], ["delete mine"]),
        (["about to start"], ["mine"], ["delete mine"]),
        (["mine"], [], ["shutdown"]),
    ],
)
def test_ray_serve_ends_with_the_last_who_needs_it(
    others: list[str], applications: list[str], done: list[str]
) -> None:
    said: list[str] = []
    named = [{"name": name, "namespace": OWNERS} for name in others] + [{"name": "arm", "namespace": "robots"}]
    ray: Any = SimpleNamespace(util=SimpleNamespace(list_named_actors=lambda all_namespaces: named))
    serve: Any = SimpleNamespace(
        status=lambda: SimpleNamespace(applications=dict.fromkeys(applications)),
        delete=lambda name: said.append(f"delete {name}"),
        shutdown=lambda: said.append("shutdown"),
    )
    end(ray, serve, "mine")
    assert said == done
