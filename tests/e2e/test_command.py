"""The command, from its arguments to its files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from chunkwise.cli import main

ROBOT = '''
import numpy as np
from chunkwise.contract import Action, ComponentSpec, Frame, RobotSpec

class Stage:
    """A robot that ends the show at a given act."""

    def __init__(self, *, ends_at: int = 0, how: str = "KeyboardInterrupt") -> None:
        self.spec = RobotSpec("stage", [], [ComponentSpec("arm", "arm", 2, ["joint_position"])], control_hz=100.0)
        self._ends_at, self._how, self._acts, self._at = ends_at, how, 0, np.zeros(2)

    def connect(self) -> None: ...

    def observe(self) -> Frame:
        return Frame(state={"arm": self._at})

    def act(self, action: Action) -> Action:
        self._acts += 1
        if self._acts == self._ends_at:
            raise {"KeyboardInterrupt": KeyboardInterrupt, "ConnectionError": ConnectionError}[self._how]("bus")
        self._at = action.commands["arm"].value
        return action

    def close(self) -> None:
        print("the curtain falls")
'''

POLICY = '''
import numpy as np

class Still:
    """Stays where it is."""

    def __init__(self, *, rows: int = 20) -> None:
        self._rows = rows

    def infer(self, frame, request):
        return np.repeat(frame.state["arm"][None], self._rows, axis=0)

def infer(frame, request):
    return np.zeros((20, 2))
'''


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "stage_robot.py").write_text(ROBOT)
    (tmp_path / "still_policy.py").write_text(POLICY)
    monkeypatch.chdir(tmp_path)
    return tmp_path


STAGE = ["run", "--robot", "stage_robot.py:Stage", "--policy", "still_policy.py:Still"]


def test_mock_and_wave_for_a_second(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "out.json"
    assert main(["run", "--robot", "mock", "--policy", "wave", "--seconds", "1", "--json", str(path)]) == 0
    out = capsys.readouterr().out
    assert "policy 'wave' drives robot 'mock'" in out
    assert "control rate" in out
    made = json.loads(path.read_text())
    assert made["control_hz"] == 50.0
    assert 0 < made["steps"] <= 50
    assert made["faults"] == 0
    setup = made["setup"]
    assert (setup["robot"], setup["policy"], setup["strategy"], setup["worker"]) == (
        "mock",
        "wave",
        "rtc",
        "thread",
    )
    assert (setup["seconds"], setup["latency_ms"]) == (1.0, 0.0)
    assert {"python", "chunkwise", "numpy"} <= set(setup["versions"])


@pytest.mark.parametrize("policy", ["still_policy.py:Still", "still_policy.py:infer"])
def test_a_class_and_a_function_of_a_file(files: Path, policy: str, capsys: pytest.CaptureFixture[str]) -> None:
    code = main([*STAGE[:3], "--policy", policy, "--seconds", "0.1", "--worker", "inline", "--strategy", "switch"])
    out = capsys.readouterr().out
    assert code == 0
    assert "has no spec; its first answer gives one" in out
    assert "the curtain falls" in out


def test_ctrl_c_still_reports_and_writes(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*STAGE, "--robot.ends_at", "7", "--json", "out.json"]) == 130
    out = capsys.readouterr().out
    assert "control rate" in out
    assert out.endswith("interrupted\n")
    assert out.count("the curtain falls") == 1
    made = json.loads((files / "out.json").read_text())
    assert made["interrupted"]
    assert made["steps"] == 6


def test_a_robot_that_fails_is_one_line_and_is_closed(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = [*STAGE, "--robot.ends_at", "3", "--robot.how", "ConnectionError"]
    assert main(argv) == 1
    said = capsys.readouterr()
    error, note = said.err.splitlines()[-2:]
    assert error.startswith("chunkwise: ConnectionError: bus (")
    assert "stage_robot.py:" in error  # the robot's own file
    assert "control step" in note
    assert "control rate" in said.out  # the report of the run that it ended
    assert "the curtain falls" in said.out
    with pytest.raises(ConnectionError):
        main([*argv, "--debug"])


def test_the_configuration_says_what_the_flags_say(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = [*STAGE, "--policy.rows", "30", "--strategy", "blend", "--strategy.ensemble_weight", "0.2,0.9"]
    assert main([*flags, "--seconds", "0.1", "--latency-ms", "5", "--print-config"]) == 0
    printed = capsys.readouterr().out
    (files / "run.yaml").write_text(printed)
    assert main(["run", "--config", "run.yaml", "--print-config"]) == 0
    assert capsys.readouterr().out == printed
    assert main(["run", "--config", "run.yaml"]) == 0
    assert "strategy {'name': 'blend', 'ensemble_weight': [0.2, 0.9]}" in capsys.readouterr().out


def test_a_chunk_that_is_too_short_is_warned_of_in_words(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = [*STAGE, "--policy.rows", "4", "--latency-ms", "50", "--seconds", "0.5", "--json", "out.json"]
    assert main(argv) == 0
    error = capsys.readouterr().err
    assert error.count("warning: too_short") == 1
    assert "H=4 rows" in error
    made = json.loads((files / "out.json").read_text())
    assert made["starved_steps"] > 0


def test_check_never_moves_the_robot(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = [
        "check",
        "--robot",
        "stage_robot.py:Stage",
        "--robot.ends_at",
        "1",
        "--policy",
        "still_policy.py:Still",
    ]
    assert main([*argv, "--policy.rows", "400"]) == 0
    out = capsys.readouterr().out
    assert "d <= s <= H - d" in out
    assert out.endswith("fits\n")
    assert main([*argv, "--latency-ms", "150"]) == 1
    out = capsys.readouterr().out
    assert "H=20 rows is too short for a delay of" in out
    assert out.endswith("does not fit\n")


def test_a_run_in_which_no_chunk_ran_is_not_a_success(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (files / "none_policy.py").write_text(
        "from chunkwise.contract import PolicyOutputSpec, PolicySpec\n"
        "class Failing:\n"
        "    spec = PolicySpec('failing', [], [], outputs=[PolicyOutputSpec('right_arm', 'joint_position', 7)])\n"
        "    def infer(self, frame, request):\n"
        "        raise KeyError('checkpoint')\n"
    )
    assert main(["run", "--policy", "none_policy.py:Failing", "--seconds", "0.1"]) == 1
    assert "no chunk ever ran (policy_failed: KeyError: 'checkpoint')" in capsys.readouterr().err


def test_one_adapter_says_its_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "strategies", "rtc"]) == 0
    out = capsys.readouterr().out
    assert "schedule" in out and "default 'exp'" in out
