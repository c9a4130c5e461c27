"""The genuine OpenArm nodes, on both versions of Dora, before our server and a simulated OpenArm."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.dora]

BAD_POLICIES = Path(__file__).with_name("bad_policies.py")
HOLD_RAD = 0.02
"""How far a command may be from where the arm stood, of a policy that stays there."""


def test_two_episodes_through_the_whole_chain(
    venv: Path, serve: Callable[[str], Any], dataflow: ModuleType, tmp_path: Path
) -> None:
    server = serve("demo")
    text = dataflow.with_spy(dataflow.DATAFLOW.read_text(encoding="utf-8"))
    ended = dataflow.run(text, venv=venv, socket=server.socket, folder=tmp_path, stop_after_s=40)

    assert ended.code == 0, ended.output[-4000:]
    assert not ended.survivors
    assert sum(chunk["reset"] for chunk in ended.spied) == 2, "each episode begins with one reset"
    assert ended.printed("actions-executor", dataflow.RESET) == 2, "both resets were honoured by the executor"
    assert {tuple(chunk["shape"]) for chunk in ended.spied} == {(16, 16)}, "the executor takes no other shape"
    assert len({(chunk["interval"], chunk["cutoff_hz"]) for chunk in ended.spied}) == 1
    assert all(chunk["finite"] for chunk in ended.spied)

    episodes = ended.report["episodes"]
    assert len(episodes) == 2
    for episode in episodes:
        assert episode["refused"] == 0, "every command was 8 finite numbers"
        # 250 a second were it alone on the machine; what matters here is that they flow.
        assert min(episode["commands"].values()) > 0.2 * 250 * episode["seconds"]
        assert episode["largest_step_rad"] < 0.1, "no jump"
        assert episode["first_offset_rad"] < 0.45, "nothing of the episode before"
    passed, hits = (sum(episode[key] for episode in episodes) for key in ("passed", "hits"))
    # Arms that only hold pass 3 and hit 9 of 12; a machine that stalls costs the policy a post or two.
    assert passed >= 10 and passed > hits, f"{passed} posts passed and {hits} hit, of 20"


@pytest.mark.parametrize("name", ["Slow", "Raises", "NotFinite", "WrongWidth", "Empty"])
def test_a_bad_policy_leaves_the_dataflow_up_and_the_arms_where_they_are(
    name: str, venv: Path, serve: Callable[[str], Any], dataflow: ModuleType, tmp_path: Path
) -> None:
    server = serve(f"{BAD_POLICIES}:{name}")
    text = dataflow.DATAFLOW.read_text(encoding="utf-8")
    text = dataflow.with_spy(dataflow.with_schedule(text, episodes=1, seconds=3.0))
    ended = dataflow.run(text, venv=venv, socket=server.socket, folder=tmp_path, stop_after_s=25)
    server.stop()

    assert ended.code == 0, ended.output[-4000:]
    assert not ended.survivors
    assert all(chunk["finite"] and tuple(chunk["shape"]) == (16, 16) for chunk in ended.spied)
    (episode,) = ended.report["episodes"]
    assert episode["commands"]["right"] > 50, "the arms were commanded before the trouble began"
    assert episode["refused"] == 0
    assert episode["farthest_rad"] < HOLD_RAD, "the arms hold"


def test_after_a_restart_of_the_server_the_arms_hold_until_the_dataflow_is_started_again(
    venv: Path, serve: Callable[[str], Any], dataflow: ModuleType, tmp_path: Path
) -> None:
    """The genuine bridge connects once, and at the end of the connection it leaves; the others run on."""
    first = serve(f"{BAD_POLICIES}:Stays")
    text = dataflow.DATAFLOW.read_text(encoding="utf-8")
    text = dataflow.with_spy(dataflow.with_schedule(text, episodes=1, seconds=3.0))
    results: list[Any] = []
    runs = threading.Thread(
        target=lambda: results.append(
            dataflow.run(text, venv=venv, socket=first.socket, folder=tmp_path, stop_after_s=25)
        )
    )
    runs.start()
    try:
        first.wait_for("answered", times=20)
        assert first.stop() == 0
        second = serve(f"{BAD_POLICIES}:Stays")
    finally:
        runs.join()
    second.stop()
    (ended,) = results

    # Where it waits for an answer it leaves with 0, silently; where it asks next, with 1 and a broken pipe.
    broke_pipe = "BrokenPipeError" in ended.output
    assert ended.code == int(broke_pipe), ended.output[-4000:]
    assert ended.printed("policy-server", "finished successfully") == int(not broke_pipe)
    assert not ended.survivors
    assert second.count("connected") == 0, "the bridge does not come back"
    (episode,) = ended.report["episodes"]
    assert episode["seconds"] > 2.5, "the simulation ran on to the end of its episode"
    assert 0 < episode["commands"]["right"] < 500, "commands end with the connection"
    assert episode["refused"] == 0 and episode["farthest_rad"] < HOLD_RAD, "the arms hold"


def test_our_own_control_loop_is_a_node(venv: Path, dataflow: ModuleType, tmp_path: Path) -> None:
    text = dataflow.ROBOT_DATAFLOW.read_text(encoding="utf-8")
    ended = dataflow.run(text, venv=venv, socket=tmp_path / "none", folder=tmp_path, stop_after_s=30)

    assert ended.code == 0, ended.output[-4000:]
    assert not ended.survivors
    (episode,) = ended.report["episodes"]
    assert episode["refused"] == 0 and min(episode["commands"].values()) > 200, "50 commands a second"
    assert episode["passed"] >= 6 and episode["hits"] <= 3
