"""`chunkwise chaos`: what it prints, writes and refuses."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from chunkwise.chaos.policy import FaultyPolicy
from chunkwise.chaos.run import Outcome
from chunkwise.cli import chaos
from chunkwise.contract import InterfaceValidationError
from chunkwise.options import UsageError
from chunkwise.runtime.session import Session
from chunkwise.testing.world import SimulatedClock

ARM = ["--robot.arms", "1", "--policy", "wave", "--policy.components", "arm:7", "--worker", "inline"]
PLAN = "- {fault: raise, at_s: 0.5, for_s: 1.5}\n- {fault: nan, at_s: 3, for_s: 0.2}\n"


@pytest.fixture
def simulated(monkeypatch: pytest.MonkeyPatch) -> SimulatedClock:
    """The command in simulated time."""
    clock = SimulatedClock(50.0)
    made_by = chaos.make_session

    def make_session(settings: Any, robot: Any, policy: Any, on_message: Any) -> Session:
        session = made_by(settings, robot, policy, on_message)
        session._clock, session._sleep = clock, clock.sleep
        session._make_worker = partial(session._make_worker, clock=clock, sleep=clock.sleep)
        return session

    monkeypatch.setattr(chaos, "make_session", make_session)
    monkeypatch.setattr(chaos, "endure", partial(chaos.endure, clock=clock))
    init = FaultyPolicy.__init__
    monkeypatch.setattr(FaultyPolicy, "__init__", partial_of(init, clock))
    return clock


def partial_of(init: Any, clock: SimulatedClock) -> Any:
    """The constructor of a policy that sleeps in simulated time, with the same options."""

    def made(self: FaultyPolicy, *, name: str, options: Any = None, control_hz: float | None = None) -> None:
        init(self, name=name, options=options, control_hz=control_hz, sleep=clock.sleep, hold=clock.sleep)

    return made


@pytest.fixture
def plan(tmp_path: Path) -> str:
    path = tmp_path / "plan.yaml"
    path.write_text(PLAN)
    return str(path)


def test_help_shows_how(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        chaos.main(["--help"])
    out = capsys.readouterr().out
    assert left.value.code == 0
    for word in ("examples:", "--worker process", "--plan FILE", "--random N", "--gap-ms", "--print-plan"):
        assert word in out


def test_a_run_that_keeps_its_promises(
    simulated: SimulatedClock, plan: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "out.json"
    assert chaos.main([*ARM, "--plan", plan, "--json", str(path)]) == 0
    out = capsys.readouterr().out
    assert "raise for 1.5 s" in out
    lines = {line.split()[0]: line.split() for line in out.splitlines() if line.startswith(("  raise", "  nan"))}
    assert lines["raise"][1:5] == ["76", "in", "76", "20.0"]
    assert lines["nan"][-3:] == ["no", "hold", "0.00"]
    assert "of joint1" in out and "left behind: nothing" in out and "promises broken: none" in out
    made = json.loads(path.read_text())
    assert [fault["fault"] for fault in made["faults"]] == ["raise", "nan"]
    assert made["faults"][0]["hold_s"] == pytest.approx(1.0, abs=0.05)
    assert made["commands"] == made["periods"] > 200
    assert made["broken"] == [] and made["leaks"] == {}
    assert made["report"]["setup"]["policy"] == {"name": "wave", "components": "arm:7"}


def test_a_broken_promise_is_named_and_the_code_is_1(
    simulated: SimulatedClock, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text("- {fault: stall, at_s: 1, for_s: 0.8}\n")
    assert chaos.main([*ARM, "--plan", str(path)]) == 1
    printed = capsys.readouterr()
    assert "chunkwise: broken: 1 times no command for long: 0.8" in printed.err
    assert "promises broken: 1" in printed.out and "missed by the loop" in printed.out
    assert chaos.main([*ARM, "--plan", str(path), "--gap-ms", "900"]) == 0


def test_the_default_plan_leaves_out_what_does_not_apply_and_says_so(
    simulated: SimulatedClock, capsys: pytest.CaptureFixture[str]
) -> None:
    assert chaos.main([*ARM, "--rest-s", "0.5", "--gap-ms", "5000"]) == 0
    out = capsys.readouterr().out
    assert "left out: crash: the worker has no process of its own (--worker process has one)" in out
    assert "frozen_state arm" in out and "dead_camera" not in out


def test_a_plan_is_printed_and_read_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--robot.cameras", "head", "--print-plan"]
    assert chaos.main([*words, "--random", "5", "--seed", "3"]) == 0
    text = capsys.readouterr().out
    assert text.count("- {fault: ") == 5
    path = tmp_path / "plan.yaml"
    path.write_text(text)
    assert chaos.main([*words, "--plan", str(path)]) == 0
    assert capsys.readouterr().out == text


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ([], "which policy"),
        (["--policy", "wave", "--seed", "3"], "--seed is of --random"),
        (["--policy", "wave", "--random", "many"], "random must be a whole number"),
        (["--policy", "wave", "--random", "0"], "count must be 1 to"),
        (["--policy", "wave", "--gap-ms", "-1"], "gap_ms is out of range"),
        (["--policy", "wave", "--rest-s", "nan"], "rest_s is out of range"),
        (["--policy", "wave", "--plan", "x.yaml", "--random", "3"], "leave --random and --rest-s out"),
        (["--policy", "wave", "--plan", "none.yaml"], "cannot read plan none.yaml"),
        (["--policy", "wave", "--polcy.rows", "3"], r"unknown argument '--polcy.rows'"),
        (["--policy", "wave", "--policy.rwos", "3"], r"no option 'rwos' \(did you mean 'rows'\?\)"),
        (["--policy", "wave", "--seconds", "3"], r"unknown argument '--seconds'"),
    ],
)
def test_what_is_asked_for_wrongly_is_said(argv: list[str], words: str) -> None:
    with pytest.raises((UsageError, InterfaceValidationError), match=words):
        chaos.main(argv)


def test_a_fault_that_the_worker_cannot_have_is_refused_in_a_plan_that_somebody_wrote(tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text("- {fault: kill, at_s: 1}\n")
    with pytest.raises(
        InterfaceValidationError, match=r"kill: the worker has no process.*--worker process has one"
    ):
        chaos.main([*ARM, "--plan", str(path)])


def test_a_configuration_of_a_run_serves_too(
    simulated: SimulatedClock, plan: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(
        "robot: {name: mock, arms: 1}\npolicy: {name: wave, components: 'arm:7'}\nworker: inline\nseconds: 5\n"
    )
    assert chaos.main(["--config", str(path), "--plan", plan]) == 0
    assert "seconds is not used" in capsys.readouterr().out


def test_a_report_that_cannot_be_written_is_refused_before_anything_moves(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot write"):
        chaos.main([*ARM, "--json", str(tmp_path / "none" / "out.json")])


def test_an_outcome_of_nothing_can_be_told() -> None:
    assert "0 commands in 0 periods" in chaos.told(Outcome(50.0, 0.06))


def test_what_is_said_of_the_policy_counts_under_faults_too(monkeypatch: pytest.MonkeyPatch) -> None:
    class Seen(Exception):
        pass

    def make_session(settings: Any, robot: Any, policy: Any, on_message: Any) -> Session:
        raise Seen(policy.options)

    monkeypatch.setattr(chaos, "make_session", make_session)
    with pytest.raises(Seen) as seen:
        chaos.main([*ARM, "--fallback", "scripted"])
    (options,) = seen.value.args
    assert options["name"] == "fallback"
    assert options["options"]["policies"][1] == "scripted"
