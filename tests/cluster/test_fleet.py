"""A fleet on a cluster: each robot on its node, policies on theirs, one command that starts and ends all of it."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from chunkwise.plugins import load

pytestmark = [pytest.mark.ray, pytest.mark.slow]

FLEETS = Path(__file__).with_name("fleets.py")
arm, came_to_a_standstill, ends, status, up = (
    load("policies", f"{FLEETS}:{name}") for name in ("arm", "came_to_a_standstill", "ends", "status", "up")
)
TURN = {"policy": f"{Path(__file__).with_name('on_fleet.py')}:Turn"}


def test_robots_and_policies_are_where_they_belong_and_one_ctrl_c_ends_all_of_it(
    cluster: Any, bench: Any, tmp_path: Path
) -> None:
    policies = {"far": {**TURN, "resources": "inference_pc"}, "near": TURN}
    robots = {
        "left": arm(tmp_path, "left", policy="far", resources="bench=0.5"),
        "right": arm(tmp_path, "right", policy="near", worker="thread", resources="bench=0.5"),
        "here": arm(tmp_path, "here", policy="near", worker="thread"),
    }
    with up(tmp_path, {"policies": policies, "robots": robots}, "--address", cluster.address) as command:
        command.running(*robots)
        seen = status(cluster.address)
        command.send(signal.SIGINT)
        assert command.ends() == 130, "\n".join(command.lines)
    assert all(came_to_a_standstill(tmp_path, name) for name in robots)
    assert {name: each["code"] for name, each in command.reports().items()} == dict.fromkeys(robots, 130)
    assert any(line.split() == ["left", "right", "here"] for line in command.lines)
    (fleet,) = seen["fleets"]
    has = {node["id"]: node["resources"] for node in seen["nodes"]}
    assert len(has) == 3
    assert all(has[fleet["robots"][name]["node"]].get("bench") for name in ("left", "right"))
    assert "bench" not in has[fleet["robots"]["here"]["node"]]
    for robot in fleet["robots"].values():
        assert robot["state"] == "running" and robot["steps"] > 0 and robot["rate_hz"] > 0
    assert fleet["policies"]["far"]["replicas"] == 1 and fleet["policies"]["far"]["requests"] > 0
    assert [name for name in seen["actors"] if name.startswith("on_fleet.py:Turn@")]
    assert ends(fleet["robots"]["left"]["launcher"])


def test_a_robot_that_fails_costs_the_others_nothing(cluster: Any, bench: Any, tmp_path: Path) -> None:
    broken = arm(tmp_path, "broken", policy="turn", worker="thread")
    broken["robot"]["broken"] = True
    robots = {"well": arm(tmp_path, "well", policy="turn", worker="thread", seconds=1), "broken": broken}
    with up(tmp_path, {"policies": {"turn": TURN}, "robots": robots}, "--address", cluster.address) as command:
        assert command.ends() == 1
    reports = command.reports()
    assert (reports["well"]["code"], reports["broken"]["code"]) == (0, 1)
    well = reports["well"]["report"]
    assert well["steps"] + well["missed_periods"] == 50
    command.says(r"^broken \| .*no such arm")
    command.says(r"^chunkwise: robot broken: ended with exit code 1$")


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ({"resources": "bnech"}, "did you mean 'bench'?"),
        ({"node": "robot-pc"}, "no node 'robot-pc' in the cluster; there are: "),
    ],
)
def test_where_no_robot_can_be_nothing_is_started(
    cluster: Any, bench: Any, tmp_path: Path, where: dict[str, str], said: str
) -> None:
    robots = {"left": arm(tmp_path, "left", policy="turn", worker="thread", **where)}
    with up(tmp_path, {"policies": {"turn": TURN}, "robots": robots}, "--address", cluster.address) as command:
        assert command.ends() == 2
    command.says(said)
    assert not (tmp_path / "left" / "pid").exists()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_robots_share_replicas_and_hold_until_their_server_that_was_lost_is_back(
    cluster: Any, bench: Any, tmp_path: Path, number: signal.Signals
) -> None:
    policies = {"turn": {**TURN, "replicas": 1, "num_cpus": 0.25}}
    robots = {name: arm(tmp_path, name, policy="turn", resources="bench=0.5") for name in ("left", "right")}
    with up(tmp_path, {"policies": policies, "robots": robots}, "--address", cluster.address) as command:
        command.running(*robots)
        (fleet,) = status(cluster.address)["fleets"]
        os.kill(fleet["policies"]["turn"]["pid"], number)
        again = command.says(r"^ *turn \| its server ended \(exit code -9\); it starts again in 0 s$")
        ready = command.says(r"^ *turn \| .* policy_loaded ", again)
        for name in robots:
            command.says(rf"^ *{name} \| .* hold: ")
            command.says(rf"^ *{name} \| .* Hz .*running$", ready)
        command.send(signal.SIGINT)
        assert command.ends() == 130
    assert fleet["policies"]["turn"]["replicas"] == 1 and fleet["policies"]["turn"]["requests"] > 0
    for name, outcome in command.reports().items():
        assert came_to_a_standstill(tmp_path, name)
        after = [change["after"] for change in outcome["report"]["changes"]]
        assert "running" in after[after.index("hold", 1) :]
    assert not status(cluster.address)["fleets"]
