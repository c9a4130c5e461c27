"""A robot that knows nothing of Chunkwise: a C++ program on Debian's Fast DDS, the DDS that ROS 2 comes with."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

SOURCES = Path(__file__).with_name("peer")
TOOLS = ("fastddsgen", "g++")
WAIT_S = 20.0


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "ros2: builds a peer on Fast DDS; needs libfastrtps-dev, fastddsgen and g++"
    )


@pytest.fixture(scope="session")
def peer_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program, built (about ten seconds)."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"no {', '.join(missing)}: apt-get install libfastrtps-dev libfastcdr-dev fastddsgen g++")
    folder = tmp_path_factory.mktemp("peer")
    for source in SOURCES.iterdir():
        shutil.copy(source, folder)
    commands = (
        ["fastddsgen", "-replace", "-cs", "messages.idl"],
        [
            *("g++", "-std=c++17", "-O1", "peer.cpp", "messages.cxx", "messagesPubSubTypes.cxx"),
            *("-lfastrtps", "-lfastcdr", "-o", "peer"),
        ],
    )
    for command in commands:
        made = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
        assert made.returncode == 0, f"{command[0]}: {made.stdout}{made.stderr}"
    return folder / "peer"


class Peer:
    """The program while it runs, and what it has said.

    Args:
        program: the file.
        domain: of ROS 2.
    """

    def __init__(self, program: Path, domain: int) -> None:
        self._process = subprocess.Popen(
            [str(program), str(domain)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._said: list[list[str]] = []
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def wait(self, wanted: Callable[[list[str]], bool]) -> list[str]:
        """The words of the first line that is wanted, once it was said."""

        def found() -> list[str]:
            return next((words for words in self._said if wanted(words)), [])

        with self._news:
            assert self._news.wait_for(found, WAIT_S), f"it said {self._said}"
            return found()

    def said(self, word: str) -> bool:
        """Whether a line began so."""
        with self._news:
            return any(words[0] == word for words in self._said)

    def close(self) -> int:
        """End it; its exit code.  Twice is fine."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        try:
            code = self._process.wait(WAIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        self._reader.join()
        self._process.stdout.close()
        return code

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._news:
                self._said.append(line.split())
                self._news.notify_all()


@pytest.fixture
def domain() -> int:
    return 1 + os.getpid() % 100


@pytest.fixture
def start(peer_program: Path, domain: int) -> Iterator[Callable[[], Peer]]:
    """Starts one, and sees in the end that every one left as it should."""
    running: list[Peer] = []

    def made() -> Peer:
        running.append(Peer(peer_program, domain))
        return running[-1]

    yield made
    assert [each.close() for each in running] == [0] * len(running)


@pytest.fixture
def peer(start: Callable[[], Peer]) -> Peer:
    return start()
