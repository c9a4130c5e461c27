"""What a process holds of the machine: files in shared memory, descriptors, threads, processes."""

from __future__ import annotations

import os
import stat
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

SHARED = Path("/dev/shm")
PROC = Path("/proc")


class Held(NamedTuple):
    """What is held at one time, each by a name for people.

    Attributes:
        shared: files in ``/dev/shm`` that belong to this user.
        descriptors: what this process has open, with how many times.
        threads: of this process, with how many of that name.
        processes: children of this process, by number and name.
    """

    shared: frozenset[str]
    descriptors: Counter[str]
    threads: Counter[str]
    processes: frozenset[str]


def look() -> Held:
    """What this process holds now."""
    threads = Counter(thread.name for thread in threading.enumerate())
    return Held(frozenset(_shared()), Counter(_descriptors()), threads, frozenset(_children()))


def left_since(before: Held, now: Held | None = None) -> dict[str, list[str]]:
    """What is held now and was not before, by kind; empty when nothing is.

    A new file in ``/dev/shm`` that another program has open is that program's.
    """
    now = look() if now is None else now
    shared = now.shared - before.shared
    found = {
        "shared memory": sorted(shared - in_use_elsewhere(shared)),
        "descriptors": sorted((now.descriptors - before.descriptors).elements()),
        "threads": sorted((now.threads - before.threads).elements()),
        "processes": sorted(now.processes - before.processes),
    }
    return {kind: names for kind, names in found.items() if names}


def family() -> set[int]:
    """This process and everything that it has started, by number."""
    known = {os.getpid()}
    parents = {pid: parent for pid, parent, _ in _processes()}
    while True:
        more = {pid for pid, parent in parents.items() if parent in known} - known
        if not more:
            return known
        known |= more


def of_family() -> set[str]:
    """Files in ``/dev/shm`` that this process, or one that it has started, has open or mapped."""
    return {name for pid in family() for name in _uses(pid)}


def in_use_elsewhere(names: frozenset[str]) -> set[str]:
    """Those of the names that only processes outside of this family have open or mapped."""
    if not names:
        return set()
    ours = family()
    elsewhere = {name for pid, _, _ in _processes() if pid not in ours for name in _uses(pid) if name in names}
    return elsewhere - of_family()


def _shared() -> Iterator[str]:
    with suppress(OSError), os.scandir(SHARED) as entries:
        for entry in entries:
            with suppress(OSError):  # it may be gone
                status = entry.stat(follow_symlinks=False)
                if stat.S_ISREG(status.st_mode) and status.st_uid == os.getuid():
                    yield entry.name


def _descriptors() -> Iterator[str]:
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # the one of this listing is gone
            target = os.readlink(f"/proc/self/fd/{name}")
            yield target.partition(":[")[0] if target.startswith(("socket:", "pipe:")) else target


def _processes() -> Iterator[tuple[int, int, str]]:
    """Every process: number, parent's number, name."""
    for entry in os.listdir(PROC):
        if entry.isdigit():
            with suppress(OSError, ValueError, IndexError):  # it may have ended
                text = (PROC / entry / "stat").read_text(encoding="ascii", errors="replace")
                head, _, rest = text.rpartition(")")
                yield int(entry), int(rest.split()[1]), head.partition("(")[2]


def _children() -> Iterator[str]:
    me = os.getpid()
    return (f"{pid} {name}" for pid, parent, name in _processes() if parent == me)


def _uses(pid: int) -> set[str]:
    """Files in ``/dev/shm`` that a process has open or mapped, as far as we may know."""
    found = set()
    with suppress(OSError):
        for fd in os.listdir(PROC / str(pid) / "fd"):
            with suppress(OSError):
                found.add(os.readlink(PROC / str(pid) / "fd" / fd))
    with suppress(OSError):
        maps = (PROC / str(pid) / "maps").read_text(encoding="utf-8", errors="replace")
        found |= {line.split(maxsplit=5)[5] for line in maps.splitlines() if line.count(" /dev/shm/") == 1}
    prefix = f"{SHARED}/"
    return {
        path.removeprefix(prefix) for path in found if path.startswith(prefix) and not path.endswith("(deleted)")
    }
