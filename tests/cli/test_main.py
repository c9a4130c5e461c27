from __future__ import annotations

import errno
import io
import json
import os
import signal
import subprocess
import sys

import pytest

from chunkwise import plugins
from chunkwise.cli import COMMANDS, extras, main
from chunkwise.cli import list as list_command
from chunkwise.cli import run as run_command


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"\n  {name} " in out for name in COMMANDS)
    assert main([]) == 2
    capsys.readouterr()
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("chunkwise 0.")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_examples(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0
    out = capsys.readouterr().out
    assert "examples:" in out
    assert f"chunkwise {name}" in out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["rnu"], "no command 'rnu' (did you mean 'run'?)"),
        (["run"], f"which policy? --policy NAME; there are: {', '.join(plugins.names('policies'))}"),
        (["run", "--policy", "wvae"], "did you mean 'wave'"),
        (["run", "--policy", "wave", "--robot.arms", "3"], "robot mock: Mock needs arms 1 or 2"),
        (["run", "--policy", "wave", "--robot.arms", "1"], "state 'right_arm' is missing"),
        (
            ["run", "--policy", "wave", "--json", "/no/such/folder/out.json"],
            "cannot write /no/such/folder/out.json",
        ),
        (["check"], "nothing to check"),
        (["list", "robot"], "no kind 'robot' (did you mean 'robots'?)"),
        (["demo", "--seconds", "0"], "seconds must be above zero"),
    ],
)
def test_what_was_asked_wrongly_is_said_without_a_traceback(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv) == 2
    error = capsys.readouterr().err
    assert error.startswith("chunkwise: ")
    assert message in error
    assert "Traceback" not in error


def test_debug_shows_where() -> None:
    with pytest.raises(plugins.UnknownAdapter):
        main(["run", "--debug", "--policy", "wvae"])


def test_a_rate_goes_to_the_robot_and_the_policy_that_take_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--robot", "mock", "--policy", "wave", "--control-hz", "125"]) == 0
    out = capsys.readouterr().out
    assert "robot 'mock', 125 Hz" in out
    assert "50 rows at 125 Hz" in out


def test_check_of_one_side_reads_its_spec(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--robot", "mock", "--robot.arms", "1"]) == 0
    assert "gripper_position" in capsys.readouterr().out
    assert main(["check", "--policy", "wave"]) == 0
    assert "reads: right_arm, left_arm" in capsys.readouterr().out


def test_check_says_what_does_not_fit(capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["check", "--robot", "mock", "--policy", "wave", "--policy.components", "right_arn:7"]
    assert main(argv) == 1
    assert "did you mean 'right_arm'" in capsys.readouterr().out


def test_check_counts_the_rows_in_which_the_gate_would_step_in(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--robot", "mock", "--policy", "wave", "--policy.amplitude", "9"]) == 1
    out = capsys.readouterr().out
    assert "the gate would step in: left_arm, slew, in" in out
    assert "are they in the robot's units" in out


def test_list_shows_every_kind_or_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    out = capsys.readouterr().out
    assert all(f"\n{kind}\n" in f"\n{out}" for kind in plugins.KINDS)
    assert main(["list", "strategies", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert list(listed) == ["strategies"]
    rtc = next(entry for entry in listed["strategies"] if entry["name"] == "rtc")
    assert rtc["summary"].startswith("Real-time chunking")


def test_list_marks_what_is_not_installed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(list_command, "missing", lambda name: ["mujoco"] if name == "openarm_sim" else [])
    assert main(["list", "robots"]) == 0
    out = capsys.readouterr().out
    assert "not installed: pip install 'chunkwise[openarm-sim]'" in out
    assert out.count("not installed") == 1


def test_missing_follows_the_extras_that_an_extra_includes(monkeypatch: pytest.MonkeyPatch) -> None:
    declared = [
        "numpy<3,>=1.26",
        "chunkwise[arm,onnx]; extra == 'demo'",
        'no-such-drawing>=3; extra == "demo"',
        "numpy; extra == 'arm'",
        "no_such_arm==2.0 ; extra == 'arm'",
        "chunkwise[demo]; extra == 'onnx'",
    ]
    monkeypatch.setattr(extras, "requires", lambda name: declared)
    assert extras.missing("demo") == ["no_such_arm", "no-such-drawing"]
    assert extras.missing("arm") == ["no_such_arm"]
    assert extras.missing("mock") == []


def test_a_reader_that_leaves_is_no_error() -> None:
    code = "import sys; from chunkwise.cli import main; sys.exit(main(['list']))"
    read_end, write_end = os.pipe()
    os.close(read_end)
    done = subprocess.run([sys.executable, "-c", code], stdout=write_end, stderr=subprocess.PIPE, check=False)
    os.close(write_end)
    assert done.stderr == b""
    assert done.returncode == 0


def test_list_imports_no_adapter_and_nothing_heavy() -> None:
    code = (
        "import sys; from chunkwise.cli import main; main(['list']);"
        "heavy = {'mujoco', 'onnxruntime', 'matplotlib', 'rich', 'chunkwise.robots.mock'};"
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_termination_ends_a_run_like_ctrl_c(monkeypatch: pytest.MonkeyPatch, number: signal.Signals) -> None:
    def end(argv: object) -> int:
        if signal.getsignal(number) is not signal.SIG_DFL:  # else it would end the tests
            os.kill(os.getpid(), number)
        return 0

    before = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGHUP)}
    try:
        for each in before:
            signal.signal(each, signal.SIG_DFL)
        monkeypatch.setattr(list_command, "main", end)
        assert main(["list"]) == 130
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def test_a_program_that_outlives_its_terminal_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    before = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGHUP)}
    try:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
        monkeypatch.setattr(list_command, "main", lambda argv: os.kill(os.getpid(), signal.SIGHUP) or 0)
        assert main(["list"]) == 0
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


@pytest.mark.parametrize("why", [errno.EPIPE, errno.EIO, errno.ENOSPC])
def test_whoever_cannot_be_told_anything_stops_no_robot(monkeypatch: pytest.MonkeyPatch, why: int) -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(why, os.strerror(why))

    monkeypatch.setattr(sys, "stdout", Gone())
    run_command.say("moving to the initial pose")
    assert not isinstance(sys.stdout, Gone), "nor is it tried again"
    sys.stdout.close()
