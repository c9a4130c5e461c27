"""The thread that keeps an inference process running: starts it, passes on its messages, ends it, starts it again.

It waits for descriptors and does nothing while all is well.  Whoever asks the process does so without it.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from chunkwise.workers._channel import Gone
from chunkwise.workers._process import InferenceProcess, Place

BACK_OFF_S = (0.0, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Before the next start, after so many in a row that came to nothing; the last one repeats."""
BUSY_END_S = 0.2
"""How long a policy that is in the middle of an inference has to end by itself."""


class Keeper:
    """Keeps one process.

    Args:
        place: where it runs.
        make: makes a started process ready: its policy is loaded, and told all it was told before.
        publish: told a process that is ready, and None when it is no more; nobody may use the old one then.
        say: told what people should know.

    Attributes:
        restarts: starts after the first one.
        why: why there is no process now.
    """

    def __init__(
        self,
        place: Place,
        make: Callable[[InferenceProcess, Keeper], None],
        publish: Callable[[InferenceProcess | None], None],
        say: Callable[[str], None],
    ) -> None:
        self._place, self._make, self._publish, self._tell = place, make, publish, say
        self.restarts = 0
        self.why = "the inference process has not been started"
        self._vain = 0  # starts in a row that answered nothing
        self._waking = threading.Lock()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._end_of: InferenceProcess | None = None  # to be replaced, and why
        self._end_why = ""
        self._closing = threading.Event()
        self._end_s = place.end_s
        self._begun = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="chunkwise-keeper", daemon=True)

    def start(self) -> None:
        """Start the process, and wait until its policy is loaded.

        Raises:
            Exception: why it could not be; nothing runs then.
        """
        self._thread.start()
        try:
            self._begun.wait()
        except BaseException:  # Ctrl-C
            self.close()
            raise
        if self._failure is not None:
            self._thread.join()
            raise self._failure

    def replace(self, process: InferenceProcess, why: str) -> None:
        """End this process, if it is still the one, and start another; returns at once."""
        self._end_why = why
        self._end_of = process
        self._awake()

    def healthy(self) -> None:
        """The process has answered."""
        self._vain = 0

    def close(self, *, busy: bool = False) -> None:
        """End the process for good: by itself if it can, at once if it cannot.  Twice is fine.

        Args:
            busy: it is in the middle of an inference, which nobody waits for long.
        """
        if busy:
            self._end_s = min(self._end_s, BUSY_END_S)
        self._closing.set()
        self._awake()
        if self._thread.ident is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def await_reply(self, process: InferenceProcess, until_s: float) -> bool:
        """On the keeper's thread: whether there is a message from the process; False when it has ended or must.

        Args:
            process: that is asked.
            until_s: monotonic.
        """
        return self._watch(process, until_s=until_s, for_reply=True)

    @property
    def closing(self) -> bool:
        """Whether it has been closed."""
        return self._closing.is_set()

    # On the keeper's thread -----------------------------------------------------------------------------------

    def _say(self, text: str) -> None:
        with suppress(Exception):  # whoever listens must not end the watch
            self._tell(text)

    def _awake(self) -> None:
        with self._waking:
            if self._wake >= 0:
                os.eventfd_write(self._wake, 1)

    def _run(self) -> None:
        try:
            while not self._closing.is_set():
                process = self._started()
                if process is None:
                    if not self._begun.is_set():
                        return
                    self._pause()
                    continue
                self._begun.set()
                self._watch(process)
                self._finish(process)
                if not self._closing.is_set():
                    self._say(f"{process.cause}; starting again")
                    self._pause()
        finally:
            self._begun.set()
            with self._waking:
                wake, self._wake = self._wake, -1
                os.close(wake)

    def _started(self) -> InferenceProcess | None:
        """A process that is ready; None where none came to be, which is said."""
        process = None
        try:
            process = InferenceProcess(self._place)
            self._make(process, self)
        except Exception as error:  # noqa: BLE001  of any kind, to be raised where it was asked for
            if process is not None:
                self.end(process, "could not be made ready")
                process.close()
            self._failure = error
            if not self._closing.is_set():
                self.why = f"the inference process could not be started: {error}"
                if self._begun.is_set():
                    self._say(self.why)
            return None
        if self._begun.is_set():
            self.restarts += 1
        self._publish(process)
        return process

    def _pause(self) -> None:
        """Wait before the next start."""
        seconds = BACK_OFF_S[min(self._vain, len(BACK_OFF_S) - 1)]
        self._vain += 1
        if seconds:
            self._say(f"next start of the inference process in {seconds:g} s")
        until_s = time.monotonic() + seconds
        while not self._closing.is_set() and (left_s := until_s - time.monotonic()) > 0:
            select.select([self._wake], [], [], left_s)
            self._drain()

    def _drain(self) -> None:
        with suppress(BlockingIOError):
            os.eventfd_read(self._wake)

    def _watch(self, process: InferenceProcess, *, until_s: float | None = None, for_reply: bool = False) -> bool:
        """Wait for a reply, where one is expected; pass messages on meanwhile.

        Returns:
            Whether there is one; False when the process has ended, has to end, or the time is over.
        """
        ended, stderr = process.watched()
        poll = select.poll()
        watched = [self._wake, ended, stderr] + [process.work.fileno()] * for_reply
        for fd in watched:
            poll.register(fd, select.POLLIN)
        while not self._closing.is_set() and self._end_of is not process:
            left_s = None if until_s is None else until_s - time.monotonic()
            if left_s is not None and left_s <= 0:
                return False
            news = {fd for fd, _ in poll.poll(None if left_s is None else left_s * 1e3 + 1)}
            if stderr in news and not process.relay():
                poll.unregister(stderr)
            if for_reply and process.work.fileno() in news:
                return True
            if ended in news:
                return False
            if self._wake in news:
                self._drain()
        return False

    def _finish(self, process: InferenceProcess) -> None:
        """See a process to its end, and let go of it."""
        if self._end_of is process:
            self.end(process, self._end_why)
        elif self._closing.is_set():
            self._ask_to_end(process)
            self.end(process, "was closed")
        else:
            process.reap()
        self._end_of, self.why = None, process.cause
        process.work.shut()  # whoever waits there goes on
        process.side.shut()
        self._publish(None)
        process.close()

    def end(self, process: InferenceProcess, why: str) -> None:
        """On the keeper's thread: end a process now, if it has not ended, and know why."""
        if not process.ended.is_set():
            process.kill()
            process.reap(why)

    def _ask_to_end(self, process: InferenceProcess) -> None:
        with suppress(Gone, OSError):
            process.work.send({"call": "close", "id": -1})
        ended, stderr = process.watched()
        until_s = time.monotonic() + self._end_s
        poll = select.poll()
        for fd in (ended, stderr):
            poll.register(fd, select.POLLIN)
        while (left_s := until_s - time.monotonic()) > 0:
            news = {fd for fd, _ in poll.poll(left_s * 1e3)}
            if stderr in news and not process.relay():
                poll.unregister(stderr)
            if ended in news:
                return
        process.kill()
