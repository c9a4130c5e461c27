"""Several models that share two replicas: the right one answers, whoever asks, wherever it is."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from chunkwise.contract import ActionChunk, ChunkRequest, Frame, InterfaceValidationError, PolicyFailed
from chunkwise.plugins import load
from chunkwise.transports import Address
from chunkwise.workers import WorkerFailed

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of Ray Serve about its own dependencies
]

TESTS = Path(__file__).parent
Replicas: Any = load("policies", "replicas")
Remote: Any = load("policies", "remote")
serving, at_once, Gate = (
    load("policies", f"{TESTS / 'test_replicas.py'}:{name}") for name in ("serving", "at_once", "Gate")
)
arm, status, up = (load("policies", f"{TESTS / 'fleets.py'}:{name}") for name in ("arm", "status", "up"))
NUMBERS = {"kitchen": 1.0, "bench": 2.0, "line": 3.0}
STATE = {"arm": np.zeros(3)}
PATIENCE, PATIENCE_S = 2000, 60.0
BREATH, BREATH_S = threading.Event(), 0.02


def models(*names: str, **options: Any) -> dict[str, Any]:
    return {
        name: {"name": f"{TESTS / 'on_nodes.py'}:Checkpoint", "number": NUMBERS[name], **options} for name in names
    }


def ask(replicas: Any, *names: str) -> list[Any]:
    answers: list[Any] = replicas.infer_many(
        [(Frame(state=STATE, task={"model": name}), ChunkRequest(0)) for name in names]
    )
    return answers


def numbers(answers: list[Any]) -> list[float]:
    assert all(isinstance(each, ActionChunk) for each in answers), answers
    return [float(each.rows[0, 0]) for each in answers]


def process_of(replicas: Any, name: str) -> int:
    (answer,) = ask(replicas, name)
    return int(answer.rows[0, 2])


@pytest.fixture(scope="module")
def shared(cluster: Any) -> Iterator[Any]:
    with closing(Replicas(models=models(*NUMBERS), replicas=2, num_cpus=0.5, address=cluster.address)) as made:
        yield made


def test_the_model_that_is_named_answers_and_the_answers_are_in_order(shared: Any) -> None:
    answers = ask(shared, "line", "kitchen", "bench", "line", "kitchen", "kitchen")
    assert numbers(answers) == [3.0, 1.0, 2.0, 3.0, 1.0, 1.0]
    assert [answer.rows[0, 1] for answer in answers] == [2, 3, 1, 2, 3, 3]  # each model is asked once
    assert shared.spec.name == "kitchen+bench+line" and shared.spec.required_task_keys == ["model"]


def test_who_names_no_model_moves_nothing(shared: Any) -> None:
    right, wrong = ask(shared, "bench", "kichen")
    assert numbers([right]) == [2.0]
    assert isinstance(wrong, InterfaceValidationError)
    assert "no model 'kichen'; there are: kitchen, " in str(wrong)
    with pytest.raises(InterfaceValidationError, match=r"names no model .* there are: kitchen, bench, line"):
        shared.infer(Frame(state=STATE), ChunkRequest(0))


class Kept:
    """Replicas as a policy whose `close` leaves them to the next test."""

    def __init__(self, replicas: Any) -> None:
        self._replicas, self.close = replicas, lambda: None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._replicas, name)

    def session(self) -> Kept:
        return self


def test_many_robots_over_one_server_are_each_answered_by_their_own(shared: Any, tmp_path: Path) -> None:
    address = Address("unix", str(tmp_path / "policy.sock"))
    url = f"native+unix://{address.path}"
    names = [*NUMBERS] * 3
    with ExitStack() as stack:
        stack.enter_context(serving(Kept(shared), address))
        robots = [
            (name, stack.enter_context(closing(Remote(url=url, model=name, timeout_s=PATIENCE_S))))
            for name in names
        ]
        assert robots[0][1].spec.required_task_keys == []

        def work(each: Any) -> None:
            name, robot = each
            for step in range(40):
                assert robot.infer(Frame(state=STATE), ChunkRequest(step)).rows[0, 0] == NUMBERS[name]

        at_once(work, robots)
        for model in ("", "kichen"):
            with (
                closing(Remote(url=url, model=model)) as robot,
                pytest.raises(PolicyFailed, match="there are: kitchen"),
            ):
                robot.infer(Frame(state=STATE), ChunkRequest(0))


def test_models_of_another_spec_are_refused_by_name(cluster: Any) -> None:
    differ = models("kitchen") | models("bench", joints=4)
    with pytest.raises(InterfaceValidationError, match=r"kitchen \(here\) and bench \(there\) .*output 'arm'"):
        Replicas(models=differ, num_cpus=0.5, address=cluster.address)


def test_a_model_makes_room_for_another_one_and_others_are_answered_meanwhile(
    cluster: Any, tmp_path: Path
) -> None:
    def told(*words: str) -> list[str]:
        lines = (tmp_path / "diary").read_text(encoding="utf-8").splitlines()
        return [line for line in lines if line.startswith(words)]

    with closing(Gate(tmp_path)) as gate:
        gate.open()
        given = models(*NUMBERS, diary=str(tmp_path / "diary"), gate=str(gate.path))
        options = {"models_per_replica": 2, "default_model": "line", "num_cpus": 0.5, "address": cluster.address}
        with closing(Replicas(models=given, **options)) as replicas:
            assert replicas.spec.required_task_keys == []
            assert told("made", "closed") == ["made 1", "made 2", "closed 1", "made 3"]
            assert numbers([replicas.infer(Frame(state=STATE), ChunkRequest(0))]) == [3.0]
            gate.close()
            waiting: list[Any] = []
            thread = threading.Thread(target=lambda: waiting.extend(ask(replicas, "kitchen")))
            thread.start()
            for _ in range(PATIENCE):
                if replicas.calls_at_once == 2:
                    break
                BREATH.wait(BREATH_S)
            for _ in range(20):  # the load cannot end before the gate is open
                (beside, line) = ask(replicas, "kitchen", "line")
                assert isinstance(beside, WorkerFailed) and "'kitchen' is being loaded" in str(beside)
                assert numbers([line]) == [3.0]
            gate.open()
            thread.join()
            assert numbers(waiting) == [1.0] and replicas.calls_at_once == 1
            assert told("made", "closed")[4:] == ["closed 2", "made 1"]
            assert numbers(ask(replicas, "kitchen", "bench", "line")) == [1.0, 2.0, 3.0]
    made, closed = (sorted(line.split()[1] for line in told(word)) for word in ("made", "closed"))
    assert made == closed, "what was made is closed"


def test_a_replica_that_is_killed_takes_no_model_with_it(cluster: Any) -> None:
    given = models("kitchen", "bench")
    options = {"replicas": 2, "models_per_replica": 1, "num_cpus": 0.5, "address": cluster.address}
    with closing(Replicas(models=given, **options)) as replicas:
        killed, other = process_of(replicas, "kitchen"), process_of(replicas, "bench")
        assert killed != other
        os.kill(killed, signal.SIGKILL)
        answered = {"kitchen": 0, "bench": 0}
        for _ in range(PATIENCE):
            for name, answer in zip(answered, ask(replicas, *answered), strict=True):
                assert isinstance(answer, (ActionChunk, WorkerFailed)), answer
                if isinstance(answer, ActionChunk):
                    assert answer.rows[0, 0] == NUMBERS[name] and answer.rows[0, 2] != killed
                    answered[name] += 1
            if min(answered.values()) > 5:
                return
            BREATH.wait(BREATH_S)
    raise AssertionError(f"a model is gone: {answered}")


def test_two_robots_of_a_fleet_share_replicas_and_have_a_model_each(
    cluster: Any, bench: Any, tmp_path: Path
) -> None:
    turn = f"{TESTS / 'on_fleet.py'}:Turn"
    given = {
        name: {"name": turn, "path": str(tmp_path), "sign": sign} for name, sign in (("there", 1), ("back", -1))
    }
    fleet = yaml.safe_load(
        yaml.safe_dump({"policies": {"turn": {"models": given, "replicas": 1, "num_cpus": 0.25}}})
    )
    fleet["robots"] = {
        name: arm(tmp_path, name, policy="turn", model=model, resources="bench=0.5")
        for name, model in (("left", "there"), ("right", "back"))
    }
    with up(tmp_path, fleet, "--address", cluster.address) as command:
        command.running("left", "right")
        command.send(signal.SIGINT)
        assert command.ends() == 130, "\n".join(command.lines)
    sent = {
        name: yaml.safe_load((tmp_path / name / "last.json").read_text())["sent"] for name in ("left", "right")
    }
    assert min(sent["left"]) >= 0.0 < max(sent["left"]) and max(sent["right"]) <= 0.0 > min(sent["right"])
