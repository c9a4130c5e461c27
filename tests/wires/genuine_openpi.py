"""The genuine openpi client at work; run by the environment that it is installed in, with our sources there, too.

    python genuine_openpi.py drive PORT HORIZON EPISODES    # its Runtime and broker on the simulated OpenArm
    python genuine_openpi.py talk PORT                      # metadata, a chunk, an error, and on
    python genuine_openpi.py knock PORT KEY                 # with an api key

Prints one line of JSON.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
from openpi_client import action_chunk_broker, websocket_client_policy
from openpi_client.runtime import environment, runtime, subscriber
from openpi_client.runtime.agents import policy_agent
from websockets.exceptions import InvalidStatus

EPISODE_STEPS = 325
SEED = 2_000_000


def client(port: int, key: str | None = None) -> Any:
    """The genuine client."""
    return websocket_client_policy.WebsocketClientPolicy("127.0.0.1", port, key)


class Bench(environment.Environment):  # type: ignore[misc]
    """The simulated OpenArm, one control period for each action; every episode has posts of its own."""

    def __init__(self) -> None:
        from chunkwise import plugins
        from chunkwise.contract import robot_layout

        self.robot = plugins.load("robots", "openarm_sim")(lockstep=True)
        self.robot.connect()
        self._layout = robot_layout(self.robot.spec)
        self._episodes = 0

    def reset(self) -> None:
        self.robot.reset(SEED + self._episodes)
        self._episodes += 1

    def is_episode_complete(self) -> bool:
        return False

    def get_observation(self) -> dict[str, Any]:
        return {"state": self.robot.observe().state, "prompt": "keep off the posts"}

    def apply_action(self, action: dict[str, Any]) -> None:
        self.robot.act(self._layout.action(action["actions"].astype(np.float64)))


class Scores(subscriber.Subscriber):  # type: ignore[misc]
    """How each episode went."""

    def __init__(self, robot: Any) -> None:
        self._robot = robot
        self.found: list[dict[str, Any]] = []
        self.steps = 0

    def on_episode_start(self) -> None: ...

    def on_step(self, observation: dict[str, Any], action: dict[str, Any]) -> None:
        self.steps += 1
        assert action["actions"].shape == (16,) and action["server_timing"]["infer_ms"] > 0

    def on_episode_end(self) -> None:
        self.found.append(self._robot.score())


def drive(port: int, horizon: int, episodes: int) -> dict[str, Any]:
    """Every layer of the genuine package between the server and the robot."""
    bench = Bench()
    scores = Scores(bench.robot)
    broker = action_chunk_broker.ActionChunkBroker(client(port), action_horizon=horizon)
    agent = policy_agent.PolicyAgent(broker)
    runtime.Runtime(bench, agent, [scores], num_episodes=episodes, max_episode_steps=EPISODE_STEPS - 1).run()
    return {"scores": scores.found, "steps": scores.steps}


def talk(port: int) -> dict[str, Any]:
    """What the client makes of what the server says."""
    policy = client(port)
    picture = np.zeros((3, 224, 224), np.uint8)
    picture[0, :112] = 255
    names = ("cam_high", "cam_low", "cam_left_wrist", "cam_right_wrist")
    seen = {"state": np.arange(14) / 10, "images": dict.fromkeys(names, picture), "prompt": "transfer cube"}
    first, second = policy.infer(seen), policy.infer(seen)
    policy.reset()
    try:
        policy.infer({"state": np.zeros(3)})
        error = ""
    except RuntimeError as raised:
        error = str(raised)
    third = policy.infer(seen)
    return {
        "metadata": policy.get_server_metadata(),
        "actions": [answer["actions"][0].tolist() for answer in (first, second, third)],
        "dtype": first["actions"].dtype.str,
        "timings": [sorted(answer["server_timing"]) for answer in (first, second, third)],
        "policy_ms": first["policy_timing"]["infer_ms"],
        "error": error,
    }


def knock(port: int, key: str) -> dict[str, Any]:
    """Whether the key is taken."""
    try:
        return {"metadata": client(port, key).get_server_metadata()}
    except InvalidStatus as error:
        return {"error": f"{type(error).__name__}: {error}"}


if __name__ == "__main__":
    doing, port, *rest = sys.argv[1:]
    what: Any = {"drive": drive, "talk": talk, "knock": knock}[doing]
    print(json.dumps(what(int(port), *(int(word) if word.isdecimal() else word for word in rest))))
