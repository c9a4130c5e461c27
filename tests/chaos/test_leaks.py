from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from chunkwise.chaos import leaks
from chunkwise.chaos.leaks import Held, family, left_since, look

WAITS = "import sys; opened = [open(name) for name in sys.argv[1:]]; print(flush=True); sys.stdin.read()"


@pytest.fixture
def start() -> Iterator[object]:
    """Starts processes that have the files open that they are told, until the test is over."""
    started: list[subprocess.Popen[bytes]] = []

    def begin(*names: Path) -> subprocess.Popen[bytes]:
        words = [sys.executable, "-IS", "-c", WAITS, *map(str, names)]
        made = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        started.append(made)
        assert made.stdout is not None
        made.stdout.readline()
        return made

    yield begin
    for process in started:
        process.communicate()


def test_nothing_is_left_where_nothing_was_taken(shared: Path) -> None:
    (shared / "before").touch()
    assert left_since(look()) == {}


def test_a_file_in_shared_memory_is_named_and_a_socket_is_none(shared: Path) -> None:
    before = look()
    (shared / "psm_1234").touch()
    (shared / "folder").mkdir()
    assert left_since(before) == {"shared memory": ["psm_1234"]}


def test_a_file_that_another_program_has_open_is_its_own(
    shared: Path, start: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = look()
    (shared / "theirs").touch()
    (shared / "ours").touch()
    process = start(shared / "theirs", shared / "ours")  # type: ignore[operator]
    with (shared / "ours").open():
        children = family() - {os.getpid()}
        assert process.pid in children
        assert leaks.of_family() >= {"theirs", "ours"}
        monkeypatch.setattr(leaks, "family", lambda: {os.getpid()})
        assert left_since(before)["shared memory"] == ["ours"]


def test_descriptors_threads_and_processes_are_named(start: object, tmp_path: Path) -> None:
    before = look()
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait, name="left-behind")
    thread.start()
    path = tmp_path / "open.txt"
    path.touch()
    with path.open():
        process = start()  # type: ignore[operator]
        left = left_since(before)
        assert left["threads"] == ["left-behind"]
        assert str(path) in left["descriptors"]
        assert [text.split()[0] for text in left["processes"]] == [str(process.pid)]
    stop.set()
    thread.join()


def test_what_is_open_twice_counts_twice() -> None:
    held = Held(frozenset(), Counter({"/a": 1}), Counter(), frozenset())
    assert left_since(held, held._replace(descriptors=Counter({"/a": 3, "/b": 1}))) == {
        "descriptors": ["/a", "/a", "/b"]
    }
    assert left_since(held, held._replace(descriptors=Counter())) == {}
