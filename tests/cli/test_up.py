"""`chunkwise up`: a robot_config file as settings of a run, and a run of it on a robot behind topics."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import yaml

from chunkwise import plugins
from chunkwise.chunking import Decision, Source, SourceKind
from chunkwise.cli import main, up
from chunkwise.cli.robot_config import read_robot_config
from chunkwise.cli.settings import Choice
from chunkwise.contract import ChunkRequest
from chunkwise.options import UsageError
from chunkwise.transports._ros2.inference_topics import InferenceTopics

TESTS = Path(__file__).parents[1]
BENCH = TESTS / "robots" / "ros2" / "fake_graph.py"
write = plugins.load("policies", f"{TESTS / 'policies' / 'tiny_checkpoint.py'}:write")
JOINTS = ["shoulder", "elbow", "finger"]
FILE = """\
robot:
  name: bench
  robot_type: so101
  default_control_mode: model_inference
  models:
    act: {path: models/act, policy_type: act, device: cpu}
  control_modes:
    teleop:
      inference: {enabled: false}
    model_inference:
      controllers: [arm_position_controller]
      inference: {enabled: true, execution_mode: monolithic, model: act, request_timeout: 4.0}
      executor: {type: topic, queue_size: 50, watermark_threshold: 10, control_frequency: 100.0}
  contract:
    rate_hz: 20
    observations:
      - key: observation.state
        topic: /joint_states
        type: sensor_msgs/msg/JointState
        selector: {names: [position.shoulder, position.elbow, position.finger]}
      - key: observation.images.head
        topic: /head/image_raw
        type: sensor_msgs/msg/Image
        image: {encoding: bgr8}
    actions:
      - key: action
        selector: {names: [action.0, action.1, action.2]}
        publish: {topic: /commands, type: std_msgs/msg/Float64MultiArray}
        from_tensor: {clamp: [[-0.5, -0.5, 0.0], [0.5, 0.5, 0.1]]}
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("WORKSPACE", raising=False)
    path = tmp_path / "robot.yaml"
    path.write_text(FILE, encoding="utf-8")
    return path


def changed(file: Path, *steps: Any, **values: Any) -> Path:
    """The file with other values at a place."""
    tree = yaml.safe_load(file.read_text(encoding="utf-8"))
    place = tree["robot"]
    for step in steps:
        place = place.setdefault(step, {})
    place.update(values)
    file.write_text(yaml.safe_dump(tree), encoding="utf-8")
    return file


def calibrated(file: Path) -> Path:
    """The file with a calibration beside it, whose joints are 0 in the middle of their ranges."""
    ranges = {name: {"range_min": 1048, "range_max": 3048, "drive_mode": 0} for name in JOINTS}
    (file.parent / "calibration.json").write_text(json.dumps(ranges), encoding="utf-8")
    return changed(file, "ros2_control", calib_file="calibration.json", gripper_joints=["finger"])


def test_the_file_says_what_runs_where(file: Path) -> None:
    settings = up.settings_for(read_robot_config(file), file, 3)
    assert settings.robot == Choice("ros2", {"config": str(file), "domain": 3})
    assert settings.policy == Choice(
        str(file.parent / "models" / "act"), {"state": ("observation.state",), "device": "cpu"}
    )
    assert settings.strategy == Choice("watermark", {"watermark": 10, "queue_size": 50})
    assert (settings.control_hz, settings.inference_timeout_s) == (100.0, 4.0)
    assert settings.execution_mode == "monolithic"
    assert InferenceTopics.parse(str(settings.network)) == InferenceTopics(domain=3)


def test_relative_paths_are_below_the_workspace(file: Path) -> None:
    assert read_robot_config(file, environment={"WORKSPACE": "/ws"}).path == "/ws/models/act"
    changed(file, "models", "act", path="/abs/act")
    assert read_robot_config(file, environment={"WORKSPACE": "/ws"}).path == "/abs/act"


def test_one_key_moves_the_network_to_the_topics_of_the_file(file: Path) -> None:
    changed(
        file,
        *("control_modes", "model_inference", "inference"),
        execution_mode="distributed",
        cloud_inference_topic="/left/batch",
    )
    config = read_robot_config(file)
    settings = up.in_place(up.settings_for(config, file), config)
    policy = settings.policy
    assert policy is not None and policy.name == "distributed"
    assert InferenceTopics.parse(policy.options["network"]).input == "/left/batch"
    assert policy.options["path"] == config.path and "device" not in policy.options, "the device is the engine's"
    assert policy.options["timeout_s"] == 4.0, "what is given up is not waited for either"
    settings = up.settings_for(config, file)
    assert settings.policy is not None
    settings.policy.options["timeout_s"], settings.inference_timeout_s = 0.5, 9.0
    policy = up.in_place(settings, config).policy
    assert policy is not None and policy.options["timeout_s"] == 0.5, "what is said wins"


def test_smoothing_is_an_ensemble_asked_at_the_same_mark(file: Path) -> None:
    executor = "control_modes", "model_inference", "executor"
    changed(file, *executor, temporal_smoothing_enabled=True, temporal_ensemble_coeff=0.1)
    strategy = up.settings_for(read_robot_config(file), file).strategy
    assert strategy == Choice("temporal_ensemble", {"decay": 0.1, "execution_horizon": 50, "margin": 10})


def test_a_calibration_is_a_change_of_units(file: Path) -> None:
    config = read_robot_config(calibrated(file))
    assert config.units == {
        "calibration": str(file.parent / "calibration.json"),
        "mode": "range_m100_100",
        "grippers": ("finger",),
        "velocities": (),
        "max_velocity": 0.0,
    }
    policy = up.in_place(up.settings_for(config, file), config).policy
    assert policy is not None and policy.name == up.UNITS
    assert policy.options["policy"]["name"] == config.path
    assert policy.options["state_names"] == tuple(JOINTS)


def test_a_gripper_that_only_the_joints_name_is_one_too(file: Path) -> None:
    changed(calibrated(file), "ros2_control", gripper_joints=None)
    units = read_robot_config(file).units
    assert units is not None and units["grippers"] == ()
    assert any("no gripper_joints" in note for note in read_robot_config(file).notes)
    changed(file, "joints", arm=JOINTS[:2], gripper=["finger"], all=JOINTS)
    config = read_robot_config(file)
    assert config.units is not None and config.units["grippers"] == ("finger",) and not config.notes


def test_a_speed_of_what_is_no_wheel_has_no_unit_of_lerobots(file: Path) -> None:
    names = [f"velocity.{name}" for name in JOINTS]
    state = {"key": "observation.state", "topic": "/joint_states", "selector": {"names": names}}
    changed(calibrated(file), "contract", observations=[state])
    with pytest.raises(UsageError, match=r"velocity\.shoulder.*velocity_joints"):
        read_robot_config(file)
    changed(file, "ros2_control", velocity_joints=JOINTS, base_vel_max_rad=3.0)
    assert read_robot_config(file).state_names == tuple(JOINTS)


def test_a_fallback_and_another_policy_know_the_same_units_and_the_same_state(file: Path) -> None:
    """A model behind the first one is as the first one: its rows are no radians either."""
    config = read_robot_config(calibrated(file))
    other = file.parent / "other"
    write(other, {"observation.state": (3,)}, 3, rows=4)
    settings = up.settings_for(config, file)
    settings.fallback = str(other)
    made = up.in_place(settings, config)
    assert made.fallback is None and made.policy is not None and made.policy.name == up.UNITS
    both = made.policy.options["policy"]
    assert both["name"] == "fallback" and both["policies"][0]["name"] == config.path
    assert both["policies"][1] == {"name": str(other), "state": ["observation.state"]}
    settings = up.settings_for(config, file)
    settings.policy = Choice(str(other), {"clamp": True})
    policy = up.in_place(settings, config).policy
    assert policy is not None
    assert policy.options["policy"] == {"name": str(other), "state": ["observation.state"], "clamp": True}


def test_without_a_calibration_units_stay_and_that_is_said(file: Path) -> None:
    config = read_robot_config(file)
    assert config.units is None and "no calib_file" in config.notes[0]
    changed(calibrated(file), "models", "act", lerobot_norm_mode="none")
    config = read_robot_config(file)
    assert config.units is None and not config.notes


@pytest.mark.parametrize(
    ("place", "values", "message"),
    [
        (("models", "act"), {"devise": "cpu"}, "unknown key 'devise'.*did you mean 'device'"),
        (("models", "act"), {"lerobot_norm_mode": "degrees"}, "without calib_file"),
        (("models", "act"), {"lerobot_norm_mode": "degree"}, "did you mean 'degrees'"),
        (("control_modes", "model_inference", "inference"), {"model": "akt"}, "no 'akt'.*did you mean 'act'"),
        (("control_modes", "model_inference", "inference"), {"enabled": False}, "not enabled"),
        (
            ("control_modes", "model_inference", "inference"),
            {"execution_mode": "cloud"},
            "monolithic, distributed",
        ),
        (("control_modes", "model_inference", "inference"), {"request_timeout": 0}, "must be above 0"),
        (("control_modes", "model_inference", "executor"), {"type": "action"}, "type must be topic"),
        (("control_modes", "model_inference", "executor"), {"queue_sise": 3}, "did you mean 'queue_size'"),
        (("control_modes", "model_inference", "executor"), {"max_retry_attempts": 3}, "unknown key 'max_retry"),
        (("control_modes", "model_inference", "executor"), {"queue_size": "many"}, "queue_size"),
        ((), {"default_control_mode": "modle_inference"}, "did you mean 'model_inference'"),
        ((), {"control_modes": []}, "control_modes must be a mapping"),
        (("ros2_control",), {"calib_file": "c.json", "gripper_joints": "finger"}, "must be a list of joints"),
        (("ros2_control",), {"calib_fil": "c.json"}, "unknown key 'calib_fil'.*did you mean 'calib_file'"),
        (("ros2_control",), {"griper_joints": ["finger"]}, "did you mean 'gripper_joints'"),
        (("control_modes", "model_inference"), {"executer": {}}, "unknown key 'executer'.*'executor'"),
        ((), {"default_control_mod": "teleop"}, "did you mean 'default_control_mode'"),
    ],
)
def test_what_is_wrong_is_named(file: Path, place: tuple[str, ...], values: Any, message: str) -> None:
    changed(file, *place, **values)
    with pytest.raises(UsageError, match=message):
        read_robot_config(file)


def test_what_changes_nothing_is_said(file: Path) -> None:
    changed(file, "control_modes", "model_inference", "inference", action_server="/x/DispatchInfer")
    changed(file, "control_modes", "model_inference", "executor", navigation_mode=True, chunk_size=50)
    notes = "\n".join(read_robot_config(file).notes)
    assert all(f"{key} is not used" in notes for key in ("action_server", "navigation_mode", "chunk_size"))


@pytest.mark.parametrize("text", ["[]", "robot: 3", "robot: {", "a: 1", "x: " + "y" * (1 << 20)])
def test_what_is_no_robot_config_is_refused(file: Path, text: str) -> None:
    file.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=r"robot\.yaml"):
        read_robot_config(file)


def test_flags_win_over_the_file(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = file.parent / "models" / "act"
    write(folder, {"observation.state": (3,)}, 3, rows=4)
    words = ["up", str(file), "--strategy", "rtc", "--control-hz", "50", "--domain", "7", "--print-config"]
    assert main(words) == 0
    told = yaml.safe_load(capsys.readouterr().out)
    assert told["strategy"] == "rtc" and told["control_hz"] == 50
    assert told["robot"] == {"name": "ros2", "config": str(file), "domain": 7}
    assert "domain=7" in told["network"]
    assert main(["up"]) == 2
    assert "which robots?" in capsys.readouterr().err
    assert main(["up", str(file), "--controlmode", "x"]) == 2
    assert "did you mean '--control-mode'" in capsys.readouterr().err


@pytest.mark.parametrize("units", [False, True])
def test_it_drives_the_robot(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], units: bool
) -> None:
    """State and picture come from topics, commands go to one, within the file's clamp."""
    inputs = {"observation.state": (3,), "observation.images.head": (3, 2, 4)}
    write(file.parent / "models" / "act", inputs, 3, rows=40)
    if units:
        calibrated(file)
    bench = plugins.load("robots", f"{BENCH}:Bench")()
    robots = sys.modules[plugins.load("robots", "ros2").__module__]
    monkeypatch.setattr(robots, "open_node", lambda settings, api: bench.node)
    out = file.parent / "out.json"
    assert main(["up", str(file), "--seconds", "0.4", "--json", str(out)]) == 0
    told = json.loads(out.read_text(encoding="utf-8"))
    assert told["chunks"] > 0
    sent = [message.data.tolist() for message in bench.node.sent["/commands"]]
    assert len(sent) > 10
    assert all(-0.5 <= row[0] <= 0.5 and -0.5 <= row[1] <= 0.5 and 0 <= row[2] <= 0.1 for row in sent)
    said = capsys.readouterr().out
    assert "Execution mode: monolithic" in said
    assert "Dispatcher ready [NORMAL]. Hz: 100, Watermark: 10, Smoothing: OFF" in said
    assert ("note: no calib_file" in said) is not units


def turn(step: int, source: Source, request: ChunkRequest | None = None) -> Any:
    return SimpleNamespace(step=step, time_s=step / 100, decision=Decision(step, None, source, request))


def test_the_line_of_the_dispatcher(capsys: pytest.CaptureFixture[str]) -> None:
    stats = up.Stats(100.0)
    turns: list[Any] = []
    for step in range(501):
        request = ChunkRequest(step, remaining_steps=10, id=step // 50) if step % 50 == 0 else None
        late = 20 <= step % 50 < 30
        chunk = Source(SourceKind.CHUNK, (step - 30) // 50, 0)
        source = Source(SourceKind.STARVED) if late or step < 30 else chunk
        turns.append(turn(step, source, request))
        stats(turns[-200:])
    first, said = capsys.readouterr().out.strip().splitlines()
    assert first == "✓ First inference received: latency=300.0ms"
    assert said == "[stats] inferences=10, avg_latency=300.0ms, queue=10, hold=120"
    assert stats.line().endswith("hold=0"), "counted since it was said last"


def test_requests_that_are_never_answered_are_not_remembered_for_ever() -> None:
    stats = up.Stats(100.0)
    for step in range(1000):
        stats([turn(step, Source(SourceKind.STARVED), ChunkRequest(step, id=step))])
    assert len(stats._asked) == up.MAX_ASKED


def test_the_first_answer_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    stats = up.Stats(100.0)
    stats([turn(0, Source(SourceKind.STARVED), ChunkRequest(0, id=0))])
    assert not capsys.readouterr().out
    stats([turn(8, Source(SourceKind.CHUNK, 0, 0))])
    stats([turn(9, Source(SourceKind.CHUNK, 0, 1))])
    assert capsys.readouterr().out == "✓ First inference received: latency=80.0ms\n"


class Child:
    """A process that is started beside the run."""

    made: ClassVar[list[Child]] = []

    def __init__(self, command: Sequence[str], stdin: int | None = None) -> None:
        self.command, self.stdin, self.ended = list(command), stdin, 0
        Child.made.append(self)

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def terminate(self) -> None:
        self.ended += 1

    def wait(self, timeout: float) -> None:
        raise subprocess.TimeoutExpired(self.command, timeout)

    def kill(self) -> None:
        self.ended += 1


def test_cloud_local_starts_the_engine_here_and_ends_it(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(file.parent / "models" / "act", {"observation.state": (3,)}, 3, rows=4)
    driven: list[Any] = []
    Child.made.clear()

    def drive(settings: Any, watch: Any) -> Any:
        driven.append((settings.policy, Child.made[0].ended))
        raise RuntimeError("the robot is gone")

    monkeypatch.setattr(up.subprocess, "Popen", Child)
    monkeypatch.setattr(up.run, "drive", drive)
    assert main(["up", str(file), "--cloud-local", "--domain", "7"]) == 1
    ((policy, ended),) = driven
    assert policy.name == "distributed" and ended == 0
    (child,) = Child.made
    assert child.ended == 2, "asked to end, and then ended"
    assert child.command[1:4] == ["-m", "chunkwise", "engine"]
    assert child.command[-1] == f"--ros2={policy.options['network']}"
    assert "domain=7" in policy.options["network"]
    assert "--until-stdin-ends" in child.command and child.stdin is subprocess.PIPE


def test_cloud_local_gives_the_engine_what_the_network_is_run_with(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write(file.parent / "models" / "act", {"observation.state": (3,)}, 3, rows=4)
    Child.made.clear()
    monkeypatch.setattr(up.subprocess, "Popen", Child)
    monkeypatch.setattr(up.run, "drive", lambda settings, watch: None)
    monkeypatch.setattr(up.run, "outcome", lambda report: 0)
    words = ["up", str(file), "--cloud-local", "--policy.threads", "2", "--policy.clamp", "true"]
    assert main(words) == 0
    (child,) = Child.made
    given = [word for word in child.command if word.startswith("--policy.")]
    assert sorted(given) == ["--policy.device=cpu", "--policy.threads=2"], "the others are the robot's"
    assert main([*words, "--network", "native://gpu:7777"]) == 2
    assert "--cloud-local joins by topics" in capsys.readouterr().err


def test_a_run_that_cannot_be_written_down_is_not_begun(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(file.parent / "models" / "act", {"observation.state": (3,)}, 3, rows=4)
    assert main(["up", str(file), "--json", str(file.parent / "nowhere" / "out.json")]) == 2
    assert "cannot write" in capsys.readouterr().err
