"""One run of a fleet, and its driver: what passes between the two, whatever becomes of either."""

from __future__ import annotations

import io
import json
import queue
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml

from chunkwise.cli import settings
from chunkwise.cluster import _driver
from chunkwise.cluster import run as fleet_run
from chunkwise.cluster.fleet import Fleet, read_fleet
from chunkwise.cluster.run import FleetFailed, FleetRun, Served
from chunkwise.options import UsageError

PATIENCE_S = 30.0
JOINED = {"joined": {"address": "head:6379", "host": "127.0.0.1", "env": {}}}
OPTIONS = {"small": 1e-05, "great": 1e22, "day": date(2026, 1, 2), "raw": b"\xff", "word": "\U0001f916 yes"}


def fleet(robots: int = 1, **options: Any) -> Fleet:
    policies = {"wave": {"policy": "wave"}}
    made = {f"r{number}": {"robot": {"name": "mock", **options}, "policy": "wave"} for number in range(robots)}
    tree = {"policies": policies, "robots": made}
    return read_fleet(tree, "fleet.yaml", "bench", settings.NAMES, settings.check)


Start = Callable[[str, Fleet], FleetRun]


@pytest.fixture
def said() -> list[tuple[str, str]]:
    """The lines of everybody."""
    return []


@pytest.fixture
def start(said: list[tuple[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """A run whose driver is a few lines of Python."""
    made: list[FleetRun] = []

    def started(driver: str, robots: Fleet) -> FleetRun:
        script = tmp_path / "driver"
        script.write_text(f"#!{sys.executable}\nimport json, os, sys\n{driver}\n", encoding="utf-8")
        script.chmod(0o700)
        with monkeypatch.context() as patch:
            patch.setattr(sys, "executable", str(script))
            made.append(FleetRun(robots, "head:6379", lambda *line: said.append(line)))
        return made[-1]

    yield started
    for each in made:
        each.close()


def says(message: object) -> str:
    return f"os.write(1, {json.dumps(message).encode() + bytes([10])!r})"


def test_a_robot_is_told_its_settings_as_the_file_has_them(start: Start, tmp_path: Path) -> None:
    told = tmp_path / "told"
    driver = f"""
{says(JOINED)}
for line in sys.stdin:
    if "start" in line:
        open({str(told)!r}, "w").write(line)
        break
{says({"robot": "r0", "ended": 0})}
"""
    assert start(driver, fleet(**OPTIONS)).follow(lambda: False)["r0"].code == 0
    config = yaml.safe_load(json.loads(told.read_text(encoding="utf-8"))["config"])
    assert config["robot"] == {"name": "mock", **OPTIONS}


def test_a_driver_that_dies_within_a_word_is_gone(start: Start) -> None:
    run = start("os.write(1, b'{\"joined\": ')", fleet())
    with pytest.raises(FleetFailed, match="driver ended before"):
        run.follow(lambda: False)


def test_a_driver_that_takes_nothing_in_is_ended_and_its_robots_are_lost(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet_run, "ASK_S", 0.1)
    run = start(f"{says(JOINED)}\nimport signal\nsignal.pause()", fleet(robots=4, text="x" * 40_000))
    outcomes = run.follow(lambda: False)
    assert all("the cluster is gone" in outcome.why and outcome.code is None for outcome in outcomes.values())


def test_a_driver_that_says_nothing_is_ended_and_its_robots_are_lost(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet_run, "SILENT_S", 0.1)
    outcomes = start(f"{says(JOINED)}\nimport signal\nsignal.pause()", fleet()).follow(lambda: False)
    assert "the cluster is gone" in outcomes["r0"].why


def test_a_server_that_says_nothing_any_more_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    killed = list[bool]()

    class Program:
        def __init__(self, *told: Any, **more: Any) -> None: ...

        def kill(self) -> None:
            killed.append(True)

    monkeypatch.setattr(fleet_run, "Guarded", Program)
    served = Served(fleet().policies["wave"], lambda listen: [listen], "head", {}, lambda message: None)
    served.status({"readiness": "loading", "addresses": []})
    served.look(time.monotonic() + 1000)
    served.status({"readiness": "ready", "addresses": ["tcp://head:7"]})
    before_s = time.monotonic()
    served.status({"readiness": "stalled", "addresses": ["tcp://head:7"]})
    served.look(before_s + fleet_run.SILENT_S)
    assert not killed
    served.look(time.monotonic() + 1000)
    assert killed
    served.ended(0.0)
    served.look(1000.0)
    assert killed == [True]


def test_lines_of_robots_wait_nowhere(start: Start, said: list[tuple[str, str]]) -> None:
    line = says({"robot": "r0", "line": "much"})
    run = start(f"for _ in range(5000): {line}\n{says(JOINED)}\nsys.stdin.read()", fleet())
    assert run._news.get(timeout=PATIENCE_S)[1] == JOINED
    assert said == [("r0", "much")] * 5000


def test_what_the_driver_cannot_read_is_left_out_and_the_end_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
    monkeypatch.setattr(sys, "stdin", io.StringIO('{"torn\n\n{"end": true}\n{"torn'))
    _driver._read(lines)
    assert (lines.get_nowait(), lines.get_nowait()) == ({"end": True}, None)


class Refusing:
    """Ray, which makes no actor."""

    def __init__(self, why: str) -> None:
        self._why = why

    def remote(self, *told: Any, **settings: Any) -> Any:
        if not settings:
            raise ValueError(self._why)
        return lambda kind: self

    def options(self, **settings: Any) -> Refusing:
        return self


@pytest.mark.parametrize(
    ("why", "said"),
    [
        ("The name robot left (namespace=chunkwise) is already taken.", "robot left runs on this cluster already"),
        ("The precision of the fractional quantity of resource arm ...", "robot left: The precision of the"),
    ],
)
def test_why_there_is_no_actor_is_said(why: str, said: str) -> None:
    driver = object.__new__(_driver.Driver)
    driver._ray = Refusing(why)
    with pytest.raises(UsageError) as refused:
        driver._named(object, "robot left", {}, "", (".", []))
    assert str(refused.value).startswith(said)


DRIVER = """
from chunkwise.cluster import _driver
class Told:
    def __init__(self, boot, out): pass
    def tell(self, message): pass
    def show(self): pass
    def end(self): print("end", flush=True)
    def leave(self): print("leave", flush=True)
_driver.Driver, _driver.LEASE_S = Told, 0.3
_driver.main()
"""


@pytest.mark.parametrize("said", [b"\n{}\n", b""])
def test_a_driver_to_whom_nobody_speaks_ends_everything(said: bytes) -> None:
    command = [sys.executable, "-c", DRIVER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as driver:
        assert driver.stdin is not None and driver.stderr is not None
        driver.stdin.write(said)
        driver.stdin.flush() if said else driver.stdin.close()
        try:
            assert driver.wait(PATIENCE_S) == 0
        finally:
            driver.kill()
        assert driver.stderr.read().split() == ([b"end", b"leave"] if said else [])
