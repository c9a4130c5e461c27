"""A fleet of which each part is killed in turn: robots go on or come to a standstill, and nothing stays behind."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from chunkwise.plugins import load

pytestmark = [pytest.mark.ray, pytest.mark.slow]

FLEETS = Path(__file__).with_name("fleets.py")
arm, came_to_a_standstill, ends, number_in, status, up = (
    load("policies", f"{FLEETS}:{name}")
    for name in ("arm", "came_to_a_standstill", "ends", "number_in", "status", "up")
)
POLICY = f"{Path(__file__).with_name('on_fleet.py')}:Turn"
TURN = {"policy": POLICY}


def test_robots_that_lose_their_policy_launcher_or_node_and_one_that_is_killed(
    cluster: Any, bench: Any, tmp_path: Path
) -> None:
    lost = cluster.add("lost")
    told = {"policy": {"name": POLICY, "path": str(tmp_path)}}
    policies = {"far": {**told, "resources": "inference_pc"}, "near": TURN}
    robots = {
        "asks": arm(tmp_path, "asks", policy="far", resources="bench=0.2"),
        "killed": arm(tmp_path, "killed", policy="near", worker="thread", resources="bench=0.2"),
        "orphan": arm(tmp_path, "orphan", policy="near", worker="thread", resources="bench=0.2"),
        "away": arm(tmp_path, "away", policy="near", worker="thread", resources="lost"),
    }
    with up(tmp_path, {"policies": policies, "robots": robots}, "--address", cluster.address) as command:
        command.running(*robots)
        (fleet,) = status(cluster.address)["fleets"]
        os.kill(number_in(tmp_path / "killed" / "pid"), signal.SIGKILL)
        os.kill(fleet["robots"]["orphan"]["launcher"], signal.SIGKILL)
        cluster.remove(lost)
        policy = number_in(tmp_path / "policy")
        os.kill(policy, signal.SIGKILL)
        since = command.says(r"^ *asks \| .*actor is gone")
        command.says(r"^ *asks \| .* Hz .*running$", since)
        for name in ("orphan", "away"):
            command.says(rf"^ *{name} \| its launcher is gone")
            assert came_to_a_standstill(tmp_path, name)
        command.send(signal.SIGINT)
        assert command.ends() == 1
    reports = command.reports()
    assert {name: each["code"] for name, each in reports.items()} == {
        "asks": 130,
        "killed": -signal.SIGKILL,
        "orphan": None,
        "away": None,
    }
    assert number_in(tmp_path / "policy") != policy
    assert came_to_a_standstill(tmp_path, "asks")
    assert reports["asks"]["report"]["faults"] > 0
    command.says(r"^chunkwise: robot killed: ended with signal SIGKILL$")
    assert ends(number_in(tmp_path / "policy"))


@pytest.mark.parametrize(
    ("what", "number", "code"),
    [
        ("up", signal.SIGKILL, -signal.SIGKILL),
        ("driver", signal.SIGKILL, 1),
        ("up", signal.SIGSTOP, None),
        ("driver", signal.SIGSTOP, 1),
        ("launcher", signal.SIGSTOP, 1),
    ],
)
def test_without_whoever_started_it_every_robot_comes_to_a_standstill(
    cluster: Any, bench: Any, tmp_path: Path, what: str, number: signal.Signals, code: int | None
) -> None:
    robots = {"left": arm(tmp_path, "left", policy="turn", worker="thread", resources="bench=0.2")}
    with up(tmp_path, {"policies": {"turn": TURN}, "robots": robots}, "--address", cluster.address) as command:
        command.running(*robots)
        (driver,) = command.children()
        (fleet,) = status(cluster.address)["fleets"]
        launcher = fleet["robots"]["left"]["launcher"]
        os.kill({"up": command.pid, "driver": driver, "launcher": launcher}[what], number)
        assert came_to_a_standstill(tmp_path, "left")
        assert ends(driver) and ends(launcher)
        assert code is None or command.ends() == code
    if what == "driver":
        command.says(r"^chunkwise: robot left: the cluster is gone")
    elif what == "launcher":
        command.says(r"^chunkwise: robot left: its launcher does not answer within 10 s")
    else:
        assert not status(cluster.address)["fleets"]


@pytest.mark.parametrize("own_cluster", ["60"], indirect=True)
def test_without_a_head_robots_go_on_and_can_be_brought_to_a_standstill(own_cluster: Any, tmp_path: Path) -> None:
    own_cluster.add("inference_pc")
    gone = {**TURN, "resources": "node:__internal_head__=0.001"}  # Ray's own name for the head
    robots = {
        "asks": arm(tmp_path, "asks", policy="there", resources="bench=0.2"),
        "lost": arm(tmp_path, "lost", policy="gone", resources="bench=0.2"),
    }
    policies = {"there": {**TURN, "resources": "inference_pc"}, "gone": gone}
    with up(tmp_path, {"policies": policies, "robots": robots}, "--address", own_cluster.address) as command:
        command.running(*robots)
        own_cluster.kill_head()
        held = command.says(r"^ *lost \| .* hold: ")
        command.says(r"^ *asks \| .* Hz .*running$", held)
        command.send(signal.SIGINT)
        assert command.ends() == 130
    assert came_to_a_standstill(tmp_path, "asks") and came_to_a_standstill(tmp_path, "lost")


def test_when_the_head_is_gone_every_robot_comes_to_a_standstill(own_cluster: Any, tmp_path: Path) -> None:
    policies = {"here": TURN, "asked": {**TURN, "resources": "bench=0.2"}}
    robots = {
        "left": arm(tmp_path, "left", policy="here", worker="thread", resources="bench=0.2"),
        "asks": arm(tmp_path, "asks", policy="asked", resources="bench=0.2"),
    }
    with up(tmp_path, {"policies": policies, "robots": robots}, "--address", own_cluster.address) as command:
        command.running(*robots)
        own_cluster.kill_head()
        assert came_to_a_standstill(tmp_path, "left")
        assert came_to_a_standstill(tmp_path, "asks")
        assert command.ends() == 1
    command.says("^chunkwise: robot left: the cluster is gone")
