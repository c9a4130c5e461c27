"""`chunkwise up FLEET.yaml` without a cluster: what it shows, refuses, and ends with; and `chunkwise status`."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml

from chunkwise.cli import fleet as fleet_command
from chunkwise.cli import main, settings
from chunkwise.cli.status import shown
from chunkwise.cluster.fleet import Fleet, read_fleet
from chunkwise.cluster.run import Outcome
from chunkwise.runtime.operator import SIGNALS
from chunkwise.runtime.report import Report

TREE = {
    "policies": {"wave": {"policy": {"name": "wave", "components": "arm:7"}, "replicas": 2}},
    "robots": {
        "left": {"robot": {"name": "mock", "arms": 1}, "policy": "wave", "resources": "robot_left"},
        "right": {"robot": {"name": "mock", "arms": 1}, "policy": "wave"},
    },
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "bench.yaml"
    path.write_text(yaml.safe_dump(TREE, sort_keys=False), encoding="utf-8")
    return path


def test_what_each_robot_would_be_told_is_shown(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["up", str(file), "--print-config"]) == 0
    made = yaml.safe_load(capsys.readouterr().out)
    assert made["name"] == "bench"
    assert made["robots"]["left"]["node"] == "robot_left"
    assert made["robots"]["right"]["node"] == "here"
    assert made["robots"]["right"]["run"] == {"robot": {"name": "mock", "arms": 1}, "policy": "native://SERVER"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--control-hz", "20"], "--control-hz is of one robot; the file of a fleet says it under each robot"),
        (["--robot.arms", "2"], "--robot is of one robot"),
        (["--cloud-local"], "--cloud-local is of one robot"),
        (["--no-realtime"], "--realtime is of one robot"),
        (["--json", "/no/such/folder/out.json"], "cannot write /no/such/folder/out.json"),
        (["--adress", "x"], "unknown argument '--adress' (did you mean '--address'?)"),
    ],
)
def test_what_is_of_one_robot_is_refused(
    file: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["up", str(file), *words]) == 2
    assert said in capsys.readouterr().err


def test_a_robot_config_knows_no_cluster(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "robot.yaml"
    path.write_text("robot: {name: bench}", encoding="utf-8")
    assert main(["up", str(path), "--ray"]) == 2
    assert "is no fleet: --ray and --address are for a file with `robots`" in capsys.readouterr().err


def bomb(letters: str = "abcdefghi") -> str:
    """A small file that is very large written out."""
    lines = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    lines += [f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]" for a, b in itertools.pairwise(letters)]
    return "\n".join([*lines, "robots: {left: {robot: {name: mock, x: *i}}}"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (bomb(), "its aliases (*name) repeat more than"),
        ("robots: &all {left: *all}", "its aliases (*name) repeat more than"),
        ("robots: " + "[" * 10_000, "is not YAML"),
        ("robots: {left: 2026-13-01}", "is not YAML: month must be in 1..12"),
    ],
)
def test_a_file_that_is_not_what_it_seems_is_refused(
    text: str, said: str, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text(text, encoding="utf-8")
    assert main(["up", str(file)]) == 2
    assert said in capsys.readouterr().err


def test_nothing_is_the_default(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text(
        "policies: {wave: {policy: wave}}\nrobots: {one: {robot: mock, policy: wave, worker: null}}",
        encoding="utf-8",
    )
    assert main(["up", str(file), "--print-config"]) == 0
    made = yaml.safe_load(capsys.readouterr().out)
    assert made["robots"]["one"]["run"]["worker"]["name"] == "ray"


def test_what_robots_say_is_shown_and_not_obeyed(capsys: pytest.CaptureFixture[str]) -> None:
    lines = fleet_command.Lines(4)
    lines("left", "\x1b]0;owned\x07\x1b[2J\x1b[31mred\x1b[0m\tX\x9b\u202e\r\n\x00")
    lines.close()
    bad = "\ufffd"
    assert capsys.readouterr().out == f"left | {bad}]0;owned{bad}red X{bad}{bad}{bad}{bad}{bad}\n"


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_a_terminal_that_cannot_show_it_or_has_gone_costs_neither_lines_nor_the_exit_code(
    encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads, writes = os.pipe()
    with open(reads, encoding="ascii") as seen, open(writes, "w", encoding=encoding) as shows:
        monkeypatch.setattr(sys, "stdout", shows)
        if encoding == "utf-8":
            seen.close()
        lines = fleet_command.Lines(4)
        lines("left", "\N{ROBOT FACE}")
        lines("left", "second")
        lines.close()
        assert encoding == "utf-8" or [seen.readline(), seen.readline()] == ["left | ?\n", "left | second\n"]
        outcomes = {"left": Outcome(3, "", report()), "right": Outcome(0, "", report())}
        assert fleet_command.ended(made_fleet(), outcomes, False) == 3
        sys.stdout.flush()
        if sys.stdout is not shows:
            sys.stdout.close()
        with suppress(BrokenPipeError):
            shows.close()


class Over:
    """A run of a fleet that is over."""

    def __init__(self, *told: Any) -> None:
        self.handlers: list[Any] = []

    def follow(self, stop: Any) -> dict[str, Outcome]:
        return {"left": Outcome(0, "", report()), "right": Outcome(3)}

    def close(self) -> None:
        self.handlers += [signal.getsignal(number) for number in SIGNALS]


def test_a_full_disk_is_said_after_who_failed_and_no_signal_comes_between(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_room(path: Path, value: object) -> None:
        raise OSError(28, "No space left on device")

    over = Over()
    monkeypatch.setattr(fleet_command, "FleetRun", lambda *told: over)
    monkeypatch.setattr(fleet_command, "write_json", no_room)
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        assert main(["up", str(file), "--json", str(file.with_suffix(".json"))]) == 1
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert over.handlers == [signal.SIG_IGN] * len(SIGNALS)
    shown_ = capsys.readouterr()
    assert "steps starved" in shown_.out
    assert "robot right: ended with exit code 3" in shown_.err and "No space left" in shown_.err


def made_fleet() -> Fleet:
    return read_fleet(TREE, "fleet.yaml", "bench", settings.NAMES, settings.check)


def report() -> dict[str, Any]:
    quantiles = {"p50": 0.0, "p99": 0.0, "max": 0.0}
    counts: Mapping[str, Any] = {"faults_by_kind": {}, "fault_details": {}, "requests": 3, "chunks": 3}
    delays = {"min": 1.0, "median": 1.0, "max": 2.0}
    rates = {"control_hz": 50.0, "control_hz_achieved": 49.9, "missed_periods": 0, "late_periods": 0}
    steps = {"steps": 100, "starved_steps": 7, "waiting_steps": 1, "faults": 0, "seam_jump": 0.0, "jerk": 0.0}
    made = Report(lateness_s=quantiles, busy_s=quantiles, delay_steps=delays, gate={}, **rates, **steps, **counts)
    return asdict(made)


@pytest.mark.parametrize(
    ("left", "right", "interrupted", "code", "said"),
    [
        (Outcome(0, "", report()), Outcome(0, "", report()), False, 0, ""),
        (Outcome(130, "", report()), Outcome(0, "", report()), True, 130, ""),
        (Outcome(0), Outcome(2), False, 2, "robot right: ended with exit code 2"),
        (Outcome(-signal.SIGKILL), Outcome(0), False, 1, "robot left: ended with signal SIGKILL"),
        (Outcome(-40), Outcome(0), False, 1, "robot left: ended with signal 40"),
        (Outcome(None, "its launcher is gone"), Outcome(130), True, 1, "robot left: its launcher is gone"),
        (Outcome(130), Outcome(0), False, 1, "robot left: ended with exit code 130"),
    ],
)
def test_the_exit_code_is_that_of_the_first_that_failed(
    left: Outcome, right: Outcome, interrupted: bool, code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    made = fleet_command.ended(made_fleet(), {"right": right, "left": left}, interrupted)
    shown_ = capsys.readouterr()
    assert (made, said in shown_.err, bool(shown_.err)) == (code, True, bool(said))
    if left.report is not None:
        assert [line.split() for line in shown_.out.splitlines() if line.split() == ["left", "right"]]
        assert any(line.split() == ["steps", "starved", "7", "7"] for line in shown_.out.splitlines())


def test_a_status_is_a_table_of_robots_policies_and_nodes() -> None:
    node = {"id": "1", "address": "10.0.0.1", "host": "head", "resources": {"CPU": 2.0}, "free": {"CPU": 1.5}}
    running = {
        "state": "running",
        "policy": "vla",
        "rate_hz": 49.96,
        "steps": 120,
        "starved": 0,
        "why": "a plan runs",
    }
    robots = {"left": running, "right": {"state": "starting", "policy": "vla"}}
    policies = {"vla": {"replicas": 2, "requests": 31, "waiting": 1}}
    fleets = [{"fleet": "bench", "up_s": 12.3, "robots": robots, "policies": policies}]
    text = shown({"address": "10.0.0.1:6379", "nodes": [node], "fleets": fleets, "actors": ["act@gpu-7"]})
    lines = [line.split() for line in text.splitlines()]
    assert ["10.0.0.1", "head", "CPU", "2", "CPU", "1.5"] in lines
    assert ["left", "running", "50.0", "Hz", "120", "0", "vla", "a", "plan", "runs"] in lines
    assert ["right", "starting", "-", "-", "-", "vla"] in lines
    assert ["vla", "2", "31", "1"] in lines
    assert ["act@gpu-7"] in lines
    empty = shown({"address": "10.0.0.1:6379", "nodes": [node], "fleets": [], "actors": []})
    assert "no fleet: chunkwise up FLEET.yaml --ray starts one" in empty


def test_a_run_says_how_it_goes_to_whoever_started_it() -> None:
    reads, writes = os.pipe()
    config = "{robot: {name: mock, arms: 1}, policy: {name: wave, components: 'arm:7'}, seconds: 0.3}"
    command = [sys.executable, "-m", "chunkwise", "run", "--config", "-", "--status-fd", str(writes)]
    made = subprocess.run(command, input=config, capture_output=True, text=True, pass_fds=(writes,))
    os.close(writes)
    with os.fdopen(reads, encoding="utf-8") as said:
        *statuses, last = map(json.loads, said)
    assert made.returncode == 0, made.stderr
    assert "steps starved" not in made.stdout  # the table is for whoever has the report
    assert last["report"]["steps"] == 15
    assert statuses[0]["state"] == "running"
    assert statuses[-1]["steps"] > 0


@pytest.mark.parametrize("number", ["1", "-1", "999", "99999999999999"])
@pytest.mark.parametrize("words", [["run", "--policy", "wave"], ["serve", "--policy", "wave"]])
def test_a_descriptor_that_there_is_not_is_refused(
    words: list[str], number: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, f"--status-fd={number}"]) == 2
    assert f"--status-fd {number}: " in capfd.readouterr().err


def test_a_configuration_from_outside_is_read_to_its_limit(capsys: pytest.CaptureFixture[str]) -> None:
    command = [sys.executable, "-m", "chunkwise", "run", "--config", "-"]
    made = subprocess.run(command, input="#" * (settings.MAX_CONFIG_BYTES + 1), capture_output=True, text=True)
    assert made.returncode == 2
    assert "- is larger than" in made.stderr
