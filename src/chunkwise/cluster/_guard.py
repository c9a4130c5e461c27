"""Runs one program for whoever starts this, and brings it to its end when they have gone.

Run as a file, by `guarded.py`; never imported.  Lines come in: what to run, as JSON, then ``end``, once or more
often, and empty ones, that somebody is there.  Lines of JSON go out: what the program says, its status, how it
ended.  The end of what comes in says that whoever asked is gone, by ``kill -9`` too, and so does silence that is
longer than the lease: then the program is told to end (SIGTERM, which brings a robot to a standstill), and killed
with all of its process group when it does not.

It leaves its parent's family first: Ray kills the children of an actor that ends, and this one has a robot to
stop.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import tempfile
import time
from collections import deque
from contextlib import suppress
from subprocess import Popen
from typing import Any

PR_SET_PDEATHSIG = 1
END = b"end"
MAX_WAITING_BYTES = 1 << 20
"""Of lines that nobody reads; further ones are lost."""
MAX_BYTES = 4 << 20
"""Of a line of JSON."""
MAX_TEXT_BYTES = 4 << 10
"""Of a line that the program says; a longer one goes out in pieces."""
KILL_AGAIN_S = 1.0
LAST_WORDS_S = 2.0


class Lines:
    """Whole lines of what a descriptor gives, without waiting.

    Args:
        fd: the descriptor.
        most: bytes of a line; a longer one comes in pieces.
    """

    def __init__(self, fd: int, most: int = MAX_BYTES) -> None:
        self.fd, self.open, self._most, self._rest = fd, True, most, b""
        os.set_blocking(fd, False)

    def read(self) -> list[bytes]:
        """The lines that came; at the end of the stream also the one that is not whole."""
        try:
            data = os.read(self.fd, 1 << 16)
        except BlockingIOError:
            return []
        except OSError:
            data = b""
        self.open = bool(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        if self._rest and (not data or len(self._rest) > self._most):
            lines, self._rest = [*lines, self._rest], b""
        return [line[at : at + self._most] for line in lines for at in range(0, len(line) or 1, self._most)]


class Out:
    """Messages on their way out; a reader that does not read stops nobody.

    Args:
        fd: where they go.
    """

    def __init__(self, fd: int) -> None:
        self.fd, self.open = fd, True
        self._waiting, self._bytes = deque[bytes](), 0
        os.set_blocking(fd, False)

    def waits(self) -> bool:
        """Whether something is still to be written."""
        return self.open and bool(self._waiting)

    def put(self, message: dict[str, Any], *, must: bool = False) -> None:
        """A message; one that need not arrive is dropped where too much waits."""
        if must or self._bytes < MAX_WAITING_BYTES:
            self._waiting.append(json.dumps(message).encode() + b"\n")
            self._bytes += len(self._waiting[-1])
            self.write()

    def write(self) -> None:
        """As much as goes."""
        try:
            while self._waiting and self.open:
                written = os.write(self.fd, self._waiting[0])
                self._bytes -= written
                self._waiting[0] = self._waiting[0][written:]
                if not self._waiting[0]:
                    self._waiting.popleft()
        except BlockingIOError:
            return
        except OSError:  # nobody reads any more
            self.open = False


class Guard:
    """One program, from its start to its end.

    Args:
        boot: ``command`` (with ``{status}`` where it wants the number of its status descriptor), ``stdin``,
            ``env``, ``cwd``, ``grace_s``, ``lease_s`` (None for none).
        asked: where more comes from.
        out: where the news go.
    """

    def __init__(self, boot: dict[str, Any], asked: Lines, out: Out) -> None:
        self._asked, self._out, self._grace_s = asked, out, float(boot["grace_s"])
        self._lease_s = float("inf") if boot["lease_s"] is None else float(boot["lease_s"])
        self._heard_s, self._kill_at_s = time.monotonic(), float("inf")
        said, says = os.pipe()
        status, tells = os.pipe()
        parent = os.getpid()

        def before_exec() -> None:  # a guard that is killed must not leave a robot alone
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
            if os.getppid() != parent:
                os._exit(1)

        with tempfile.TemporaryFile() as words:
            words.write(boot["stdin"].encode())
            words.seek(0)
            self._popen = Popen(
                [word.replace("{status}", str(tells)) for word in boot["command"]],
                stdin=words,
                stdout=says,
                stderr=says,
                pass_fds=(tells,),
                env=boot["env"],
                cwd=boot["cwd"],
                start_new_session=True,
                preexec_fn=before_exec,
            )
        for fd in (says, tells):
            os.close(fd)
        self._said, self._status = Lines(said, MAX_TEXT_BYTES), Lines(status)
        self._ended = os.pidfd_open(self._popen.pid)
        out.put({"pid": self._popen.pid, "guard": parent}, must=True)

    def run(self, asked_to_end: int) -> None:
        """Until the program has ended; a byte at `asked_to_end` is a signal that this process was sent."""
        while not self._has_ended():
            wanted = [item.fd for item in (self._asked, self._said, self._status) if item.open]
            writes = [self._out.fd] if self._out.waits() else []
            next_s = self._kill_at_s if self._is_ending() else self._heard_s + self._lease_s
            left_s = None if next_s == float("inf") else max(next_s - time.monotonic(), 0.0)
            ready, _, _ = select.select([*wanted, self._ended, asked_to_end], writes, [], left_s)
            if asked_to_end in ready:
                os.read(asked_to_end, 64)
                self._end_once()
            if self._asked.fd in ready:
                self.told(self._asked.read())
            self._pass_on()
            self._out.write()
            if time.monotonic() >= self._kill_at_s:
                self._kill_at_s = time.monotonic() + KILL_AGAIN_S
                self._kill_group()
            elif not self._is_ending() and time.monotonic() - self._heard_s > self._lease_s:
                why = f"nobody asks for {self._lease_s:g} s: who started it is out of reach, and it is told to end"
                self._out.put({"line": why})
                self._end()
        self._kill_group()  # whoever it left behind; its number is not given to others before it is reaped
        until_s = time.monotonic() + LAST_WORDS_S
        while self._pass_on() and time.monotonic() < until_s:  # somebody whom it left behind may go on for ever
            continue
        self._out.put({"ended": self._popen.wait()}, must=True)
        until_s = time.monotonic() + LAST_WORDS_S
        while self._out.waits() and time.monotonic() < until_s:
            select.select([], [self._out.fd], [], until_s - time.monotonic())
            self._out.write()

    def told(self, lines: list[bytes]) -> None:
        """What whoever started this says; the end of the stream is a word, too."""
        self._heard_s = time.monotonic()
        for line in lines:
            if line == END:
                self._end()
        if not self._asked.open:
            self._end_once()

    def _has_ended(self) -> bool:
        return bool(select.select([self._ended], [], [], 0)[0])

    def _end(self) -> None:
        """Softly; a second time means at once, and what that is the program decides."""
        if not self._is_ending():
            self._kill_at_s = time.monotonic() + self._grace_s
        with suppress(ProcessLookupError):
            os.kill(self._popen.pid, signal.SIGTERM)

    def _end_once(self) -> None:
        if not self._is_ending():
            self._end()

    def _is_ending(self) -> bool:
        return self._kill_at_s < float("inf")

    def _kill_group(self) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._popen.pid, signal.SIGKILL)

    def _pass_on(self) -> bool:
        """Some of what it says, and whether there was any."""
        ready, _, _ = select.select([item.fd for item in (self._said, self._status) if item.open], [], [], 0)
        for lines, tell in ((self._said, self._tell_line), (self._status, self._tell_status)):
            if lines.fd in ready:
                for line in lines.read():
                    tell(line)
        return bool(ready)

    def _tell_line(self, line: bytes) -> None:
        text = line.decode(errors="replace").rstrip()
        self._out.put({"line": text.rpartition("\r")[2]})  # as a terminal would show it

    def _tell_status(self, line: bytes) -> None:
        with suppress(ValueError, RecursionError):
            status = json.loads(line)
            if isinstance(status, dict):
                self._out.put({"status": status})


def main() -> None:
    """Leave the family, read what to run, and run it."""
    if os.fork():
        os._exit(0)
    os.setsid()
    woken, wakes = os.pipe()
    os.set_blocking(wakes, False)
    signal.set_wakeup_fd(wakes, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    asked, out, words = Lines(0), Out(1), list[bytes]()
    while asked.open and not words:
        select.select([asked.fd], [], [])
        words = asked.read()
    if not asked.open:  # gone before the robot moves
        return
    try:
        guard = Guard(json.loads(words[0]), asked, out)
    except OSError as error:
        out.put({"line": f"cannot start: {error}"}, must=True)
        out.put({"ended": 1}, must=True)
        return
    guard.told(words[1:])
    guard.run(woken)


if __name__ == "__main__":
    main()
