"""A program under guard: what it says arrives, and it ends softly however whoever started it ends."""

from __future__ import annotations

import ast
import os
import queue
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from chunkwise.cluster._actors import Launcher
from chunkwise.cluster.guarded import Guarded

PATIENCE_S = 30.0
ASK_S, LEASE_S = 0.1, 3.0
PROGRAM = """
import os, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
said = sys.stdin.read()
print("hello", said, flush=True)
os.write(int(sys.argv[1]), b'{"steps": 3}\\n{"torn')
print("ready", flush=True)
signal.sigwait([signal.SIGUSR1 if said == "stubborn" else signal.SIGTERM])
print("softly", flush=True)
if said == "twice":
    signal.sigwait([signal.SIGTERM])
    print("at once", flush=True)
sys.exit(7)
"""


class Program:
    """One under guard, and its news."""

    def __init__(self, said: str, grace_s: float = PATIENCE_S, text: str = PROGRAM) -> None:
        self.news: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self.pids: dict[str, int] = {}
        command = [sys.executable, "-c", text, "{status}"]
        self.guarded = Guarded(command, self.news.put, stdin=said, grace_s=grace_s)

    def told(self) -> dict[str, Any]:
        """The next of the news."""
        return self.news.get(timeout=PATIENCE_S)

    def until(self, wanted: dict[str, Any]) -> list[dict[str, Any]]:
        """The news up to one; those that are no lines."""
        others = []
        while (news := self.told()) != wanted:
            self.pids = news if "pid" in news else self.pids
            if "line" not in news:
                others.append(news)
        return others

    def until_ended(self) -> list[dict[str, Any]]:
        """All of the news."""
        news = [self.told()]
        while "ended" not in news[-1]:
            news.append(self.told())
        return news


@pytest.fixture
def programs() -> Iterator[list[Program]]:
    made: list[Program] = []
    yield made
    for each in made:
        each.guarded.close()
        assert each.guarded.ended.wait(PATIENCE_S)


def started(programs: list[Program], said: str, grace_s: float = PATIENCE_S) -> Program:
    programs.append(Program(said, grace_s))
    programs[-1].until({"line": f"hello {said}"})
    programs[-1].until({"line": "ready"})
    return programs[-1]


def test_what_it_says_its_status_and_its_end_arrive(programs: list[Program]) -> None:
    program = Program("once")
    programs.append(program)
    first = program.until({"line": "ready"})
    program.guarded.end()
    news = first + program.until({"ended": 7})
    assert {"status": {"steps": 3}} in news
    assert news[0]["pid"] == program.guarded.pid
    assert not [each for each in news if "torn" in str(each)]


def test_a_second_word_is_passed_on_and_the_end_of_the_stream_is_none(programs: list[Program]) -> None:
    program = started(programs, "twice")
    program.guarded.end()
    program.until({"line": "softly"})
    program.guarded.end()
    program.until({"line": "at once"})
    program.until({"ended": 7})
    other = started(programs, "twice", grace_s=0.2)
    other.guarded.end()
    other.until({"line": "softly"})
    other.guarded.close()  # not a second word: it has all of its time
    said = [other.news.get(timeout=PATIENCE_S)]
    assert said == [{"ended": -signal.SIGKILL}]


def test_one_that_does_not_end_is_killed_with_all_it_started(programs: list[Program]) -> None:
    program = started(programs, "stubborn", grace_s=0.1)
    program.guarded.end()
    program.until({"ended": -signal.SIGKILL})


@pytest.mark.parametrize(
    ("said", "lines"),
    [
        (r"b'50 %\r100 %\r\n\xff\n'", ["100 %", "\N{REPLACEMENT CHARACTER}"]),
        ("b'a' * 10000", ["a" * 4096, "a" * 4096, "a" * 1808]),
        ("b'a' * 5000 + b'\\nb'", ["a" * 4096, "a" * 904, "b"]),
    ],
)
def test_a_line_is_what_a_terminal_would_show_in_pieces_of_bounded_size(
    programs: list[Program], said: str, lines: list[str]
) -> None:
    programs.append(Program("", text=f"import os; os.write(1, {said})"))
    news = programs[-1].until_ended()
    assert "".join(each["line"] for each in news if "line" in each) == "".join(lines)
    assert all(len(each["line"]) <= 4096 for each in news if "line" in each)


def test_a_status_that_is_none_is_left_out(programs: list[Program]) -> None:
    text = "import os, sys; os.write(int(sys.argv[1]), b'[' * 50000 + b'\\n3\\n{\"steps\": 3}\\n')"
    programs.append(Program("", text=text))
    news = programs[-1].until_ended()
    assert [each for each in news if "status" in each] == [{"status": {"steps": 3}}]
    assert news[-1] == {"ended": 0}


def test_somebody_who_is_left_behind_and_goes_on_talking_holds_up_no_end(programs: list[Program]) -> None:
    text = """
import os, subprocess, sys
left = subprocess.Popen(["sh", "-c", "read go; exec yes"], stdin=subprocess.PIPE, start_new_session=True)
os.write(int(sys.argv[1]), b'{"left": %d}\\n' % left.pid)
os.write(left.stdin.fileno(), b"go\\n")
"""
    programs.append(Program("", text=text))
    news = programs[-1].until_ended()
    left = next(each["status"]["left"] for each in news if "status" in each)
    with suppress(ProcessLookupError):  # nobody reads what it says any more
        os.kill(left, signal.SIGKILL)
    assert news[-1] == {"ended": 0}


def test_a_guard_that_stands_still_is_killed_and_its_program_ends(programs: list[Program]) -> None:
    program = started(programs, "stubborn", grace_s=0.2)
    ended = os.pidfd_open(program.pids["pid"])
    os.kill(program.pids["guard"], signal.SIGSTOP)
    for _ in range(1 << 14):  # more than a pipe holds
        program.guarded.here()
    program.guarded.end()
    program.until({"ended": None})
    assert select.select([ended], [], [], 0)[0], "it is said before it is so"
    os.close(ended)


def test_it_has_a_session_of_its_own(programs: list[Program]) -> None:
    pid = started(programs, "once").guarded.pid
    assert pid is not None
    assert os.getsid(pid) == pid


def test_a_command_that_there_is_not_is_said() -> None:
    news: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    Guarded(["/no/such/program"], news.put)
    assert "No such file" in news.get(timeout=PATIENCE_S)["line"]
    assert news.get(timeout=PATIENCE_S) == {"ended": 1}


STARTER = """
import sys, threading
from chunkwise.cluster.guarded import Guarded
def told(news):
    print(news, flush=True)
guarded = Guarded([sys.executable, "-c", sys.argv[1], "{status}"], told, stdin="once", lease_s=float(sys.argv[2]))
while not threading.Event().wait(0.1):
    guarded.here()
"""


@pytest.mark.parametrize(
    ("who", "number"),
    [
        ("starter", signal.SIGKILL),
        ("guard", signal.SIGKILL),
        ("starter", signal.SIGSTOP),
        ("guard", signal.SIGTERM),
    ],
)
def test_it_ends_softly_when_whoever_started_it_or_its_guard_is_killed_or_stands_still(
    who: str, number: signal.Signals, tmp_path: Path
) -> None:
    # It writes to a file what it says last: nobody listens any more.
    program = PROGRAM.replace('print("softly", flush=True)', f'open({str(tmp_path / "softly")!r}, "w").close()')
    command = [sys.executable, "-c", STARTER, program, str(LEASE_S)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout is not None
        first = ast.literal_eval(starter.stdout.readline())
        pid, guard = first["pid"], first["guard"]
        while "ready" not in starter.stdout.readline():
            pass
        ended = os.pidfd_open(pid)
        assert guard != starter.pid
        os.kill(starter.pid if who == "starter" else guard, number)
        try:
            assert select.select([ended], [], [], PATIENCE_S)[0]
        finally:
            os.close(ended)
            starter.kill()
    assert (tmp_path / "softly").exists()


def follow(launcher: Launcher, key: str) -> list[dict[str, Any]]:
    """Ask until there is news of a kind; all the news."""
    seen, news = 0, list[dict[str, Any]]()
    while not any(key in each for each in news):
        assert not any("ended" in each for each in news), news
        for number, each in launcher.news(seen, ASK_S):
            seen = number
            news.append(each)
    return news


def test_a_robot_of_which_nobody_asks_is_brought_to_its_end() -> None:
    launcher = Launcher(".", [], lease_s=LEASE_S)
    launcher.start("{robot: {name: mock, arms: 1}, policy: {name: wave, components: 'arm:7'}}", {})
    follow(launcher, "status")
    robot = launcher._robot
    assert robot is not None
    assert robot.ended.wait(PATIENCE_S)
    news = launcher.news(0, PATIENCE_S)
    assert any(f"nobody asks for {LEASE_S:g} s" in each.get("line", "") for _, each in news)
    assert news[-1][1] == {"ended": 130}
    assert [number for number, _ in news] == list(range(1, len(news) + 1))


def test_a_robot_has_the_environment_of_its_node_but_for_what_ray_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    own = {"CUDA_VISIBLE_DEVICES": "1", "OPENBLAS_NUM_THREADS": "2"}
    for name, value in {**own, "OMP_NUM_THREADS": "1", "RAY_JOB_ID": "01"}.items():
        monkeypatch.setenv(name, value)
    made = Launcher(".", [])._environment()
    assert made.items() >= own.items()
    assert not {"OMP_NUM_THREADS", "RAY_JOB_ID"} & made.keys()


def test_a_robot_of_which_somebody_asks_runs_to_its_end() -> None:
    launcher = Launcher(".", [], lease_s=PATIENCE_S)
    config = "{robot: {name: mock, arms: 1}, policy: {name: wave, components: 'arm:7'}, seconds: 0.3}"
    launcher.start(config, {})
    news = follow(launcher, "ended")
    assert news[-1] == {"ended": 0}
    statuses = [each["status"] for each in news if "status" in each]
    assert statuses[0]["state"] == "running"
    assert statuses[-1]["report"]["steps"] == 15


def test_a_server_says_where_it_listens_and_when_it_is_ready() -> None:
    news: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    words = ["serve", "--policy", "wave", "--listen", "native=tcp://127.0.0.1:0", "--status-fd", "{status}"]
    server = Guarded([sys.executable, "-m", "chunkwise", *words], news.put)
    status: dict[str, Any] = {}
    while status.get("readiness") != "ready":
        status = news.get(timeout=PATIENCE_S).get("status", {})
    (address,) = status["addresses"]
    assert address.startswith("tcp://127.0.0.1:") and not address.endswith(":0")
    assert (status["sessions"], status["waiting"], status["at_once"], status["requests"]) == (0, 0, 1, 0)
    server.end()
    while "ended" not in (last := news.get(timeout=PATIENCE_S)):
        continue
    assert last == {"ended": 0}
