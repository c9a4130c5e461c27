"""A fleet's file: what it may say, what is refused by name, and what each robot's run and each server is told."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from chunkwise.cli import settings
from chunkwise.cluster.fleet import MOST, Fleet, read_fleet
from chunkwise.cluster.run import boot, serve_command
from chunkwise.options import UsageError

FILE = """\
name: bench
policies:
  vla:
    policy: {name: my_policy.py:MyPolicy, path: weights/}
    resources: inference_pc
    num_gpus: 0.5
    replicas: 2
    most_replicas: 4
    batch: 8
  act:
    policy: act/pretrained_model
    resources: [inference_pc, memory_arm=0.5]
    num_gpus: 1
robots:
  left:
    robot: {name: my_robot.py:MyRobot, port: /dev/ttyUSB0}
    resources: robot_left
    policy: vla
    strategy: rtc
    control_hz: 50
  right:
    robot: my_robot.py:MyRobot
    node: 10.0.0.7
    policy: act
    observation_age_s: 1.0,head=0.2
"""


def fleet(text: str = FILE) -> Fleet:
    return read_fleet(yaml.safe_load(text), "fleet.yaml", "fleet", settings.NAMES, settings.check)


def test_a_fleet_is_what_its_file_says() -> None:
    made = fleet()
    assert made.name == "bench"
    assert list(made.robots) == ["left", "right"]
    assert made.robots["left"].policy is made.policies["vla"]
    assert made.robots["left"].resources == ("robot_left",)
    assert made.robots["right"].node == "10.0.0.7"
    assert made.policies["act"].resources == ("inference_pc", "memory_arm=0.5")
    assert made.policies["act"].wanted() == {"CPU": 1.0, "GPU": 1.0}


def test_a_robot_asks_replicas_at_their_server_and_a_policy_of_its_own_by_the_worker() -> None:
    robots = fleet().robots
    assert robots["left"].run("head:6379", "native://head:40001") == {
        "robot": {"name": "my_robot.py:MyRobot", "port": "/dev/ttyUSB0"},
        "strategy": "rtc",
        "control_hz": 50,
        "policy": "native://head:40001",
    }
    assert robots["right"].run("head:6379", None) == {
        "robot": "my_robot.py:MyRobot",
        "observation_age_s": "1.0,head=0.2",
        "policy": "act/pretrained_model",
        "worker": {
            "name": "ray",
            "address": "head:6379",
            "resources": ["inference_pc", "memory_arm=0.5"],
            "num_gpus": 1.0,
            "num_cpus": 1.0,
        },
    }


def test_a_robot_may_say_more_of_its_worker_or_have_its_policy_with_it() -> None:
    text = "policies: {wave: {policy: wave}}\nrobots: {one: {robot: mock, policy: wave, worker: %s}}"
    ray = fleet(text % "{name: ray, num_cpus: 2, slots: 6}").robots["one"].run("head:6379", None)["worker"]
    assert ray == {
        "name": "ray",
        "address": "head:6379",
        "resources": [],
        "num_gpus": 0.0,
        "num_cpus": 2,
        "slots": 6,
    }
    here = fleet(text % "{name: process, threads: 2}").robots["one"].run("head:6379", None)
    assert (here["policy"], here["worker"]) == ("wave", {"name": "process", "threads": 2})


def test_a_server_is_told_all_that_the_file_says_of_its_replicas() -> None:
    command = serve_command(fleet().policies["vla"].serving("head:6379"), "native=tcp://10.0.0.1:0")
    assert command[3:] == [
        "serve",
        *("--policy", "replicas", "--listen", "native=tcp://10.0.0.1:0"),
        "--policy.of={name: 'my_policy.py:MyPolicy', path: weights/}",
        "--policy.address=head:6379",
        "--policy.resources=inference_pc",
        "--policy.num-gpus=0.5",
        "--policy.num-cpus=1.0",
        "--policy.replicas=2",
        "--policy.most-replicas=4",
        "--policy.batch=8",
        *("--status-fd", "{status}"),
    ]


MODELS = """\
policies:
  vla:
    models: {kitchen: a/, bench: {name: my.py:My, path: b/}}
    replicas: 2
robots:
  left: {robot: mock, policy: vla, model: kitchen}
  right: {robot: mock, policy: vla, model: bench}
"""


def test_robots_of_one_policy_have_a_model_each() -> None:
    made = fleet(MODELS)
    assert made.robots["left"].run("head:6379", "native://head:40001") == {
        "robot": "mock",
        "policy": {"name": "native://head:40001", "model": "kitchen"},
    }
    command = serve_command(made.policies["vla"].serving("head:6379"), "native=tcp://10.0.0.1:0")
    assert "--policy.models={kitchen: a/, bench: {name: 'my.py:My', path: b/}}" in command
    assert not [word for word in command if "policy.of" in word or "default" in word]
    text = MODELS.replace("replicas: 2", "replicas: 2\n    models_per_replica: 1\n    default_model: bench")
    made = fleet(text.replace(", model: bench", ""))
    assert made.robots["right"].run("head:6379", "native://head:1")["policy"] == "native://head:1"
    command = serve_command(made.policies["vla"].serving("head:6379"), "native=tcp://10.0.0.1:0")
    assert "--policy.models-per-replica=1" in command and "--policy.default-model=bench" in command


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (", model: kitchen", "", "robots: left: which model of 'vla'? `model: NAME`; there are: kitchen, bench"),
        (
            "model: kitchen",
            "model: kichen",
            "left: model: no model 'kichen' (did you mean 'kitchen'?); there are: ",
        ),
        ("replicas: 2", "policy: wave\n    replicas: 2", "policies: vla: policy or models, not both"),
        ("replicas: 2", "num_cpus: 1", "policies: vla: models is of replicas"),
        ("replicas: 2", "replicas: 2\n    models_per_replica: 3", "models_per_replica: there are 2, got 3"),
        ("replicas: 2", "replicas: 2\n    models_per_replica: 0", "models_per_replica must be at least 1, got 0"),
        (
            "replicas: 2",
            "replicas: 2\n    default_model: x",
            "default_model: no model 'x'; there are: kitchen, bench",
        ),
        ("kitchen: a/", "kitchen: 3", "policies: vla: models: kitchen: which policy?"),
        ("kitchen: a/", "kitchen: {path: a/}", "models: kitchen: policy must be a name"),
        ("kitchen: a/", "a b: a/", "models: 'a b' is no name"),
        (
            "models: {kitchen: a/, bench: {name: my.py:My, path: b/}}",
            "models: []",
            "models must be a mapping of names",
        ),
        (
            "models: {kitchen: a/, bench: {name: my.py:My, path: b/}}",
            "policy: wave",
            "robots: left: model: policy 'vla' has no models",
        ),
        (
            "models: {kitchen: a/, bench: {name: my.py:My, path: b/}}",
            "policy: wave\n    default_model: x",
            "default_model is of a policy with models",
        ),
    ],
)
def test_what_cannot_be_of_models_is_refused_by_name(old: str, new: str, said: str) -> None:
    assert old in MODELS
    with pytest.raises(UsageError) as refused:
        fleet(MODELS.replace(old, new, 1))
    assert said in str(refused.value)


def test_on_one_computer_there_is_all_that_is_asked_for() -> None:
    made = boot(fleet(), "local")
    assert made["resources"] == {"inference_pc": 5.0, "memory_arm": 0.5, "robot_left": 1.0}
    assert made["num_cpus"] >= 6
    assert "resources" not in boot(fleet(), None)
    assert made["robots"]["right"]["node"] == "" and boot(fleet(), None)["robots"]["right"]["node"] == "10.0.0.7"


def changed(*path: Any, value: Any) -> str:
    """The file with another value somewhere; None takes it out."""
    tree = yaml.safe_load(FILE)
    place = tree
    for key in path[:-1]:
        place = place[key]
    if value is None:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return yaml.safe_dump(tree, sort_keys=False)


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("robts",), {}, "fleet.yaml: unknown key 'robts' (did you mean 'robots'?)"),
        (("robots",), {}, "fleet.yaml: robots must be a mapping of names"),
        (("robots",), None, "fleet.yaml: robots must be a mapping of names"),
        (("policies",), [1], "fleet.yaml: policies must be a mapping of names"),
        (("robots", "left"), "mock", "fleet.yaml: robots: left must be a mapping"),
        (("robots", "a b"), {}, "fleet.yaml: robots: 'a b' is no name"),
        (("robots", 1), {}, "fleet.yaml: robots: 1 is no name"),
        (("name",), "a/b", "fleet.yaml: name: 'a/b' is no name"),
        (("robots", "left", "policy"), "vlaa", "robots: left: no policy 'vlaa' (did you mean 'vla'?)"),
        (("robots", "left", "policy"), {"name": "vla"}, "robots: left: no policy {'name': 'vla'}"),
        (("robots", "left", "policy"), None, "robots: left: which policy?"),
        (("robots", "left", "robot"), None, "robots: left: which robot?"),
        (("robots", "left", "robot"), 3, "robots: left: robot must be a name"),
        (("robots", "left", "control_hx"), 3, "left: unknown key 'control_hx' (did you mean 'control_hz'?)"),
        (("robots", "left", "control_hz"), -1, "robots: left: control_hz must be above 0, got -1"),
        (("robots", "left", "control_hz"), "fast", "robots: left: control_hz must be a number"),
        (("robots", "left", "observation_age_s"), 0, "robots: left: observation_age_s must be one time above 0"),
        (("robots", "left", "json"), "x.json", "robots: left: json is of the whole fleet"),
        (("robots", "left", "worker"), "ray", "policy 'vla' has replicas, which this robot asks over a wire"),
        (
            ("robots", "right", "worker"),
            "thread",
            "policy 'act' asks for resources of the cluster, and worker thread",
        ),
        (("robots", "right", "policy"), "vla", "policies: no robot is driven by act"),
        (("policies", "vla", "batsh"), 8, "policies: vla: unknown key 'batsh' (did you mean 'batch'?)"),
        (("policies", "vla", "policy"), None, "policies: vla: which policy?"),
        (
            ("policies", "vla", "policy"),
            {"path": "x"},
            "policies: vla: policy must be a name, or a mapping with a name",
        ),
        (("policies", "vla", "policy"), 3, "policies: vla: which policy?"),
        (("policies", "vla", "replicas"), 0, "policies: vla: replicas must be at least 1, got 0"),
        (("policies", "vla", "replicas"), 1.5, "policies: vla: replicas must be a whole number"),
        (("policies", "vla", "most_replicas"), 1, "policies: vla: most_replicas must be at least replicas, got 1"),
        (("policies", "vla", "replicas"), None, "policies: vla: most_replicas is of replicas"),
        (("policies", "vla", "num_gpus"), -1, "policies: vla: num_gpus must be 0 or more, got -1"),
    ],
)
def test_what_cannot_be_is_refused_by_name(path: tuple[Any, ...], value: Any, said: str) -> None:
    with pytest.raises(UsageError) as refused:
        fleet(changed(*path, value=value))
    assert said in str(refused.value)


def test_a_fleet_has_a_largest_size() -> None:
    robots = {f"r{number}": {"robot": "mock", "policy": "vla"} for number in range(MOST + 1)}
    with pytest.raises(UsageError, match=f"{MOST} at most"):
        fleet(changed("robots", value=robots))
