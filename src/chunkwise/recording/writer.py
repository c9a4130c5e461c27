"""An episode into a file, without slowing the loop that lives it."""

from __future__ import annotations

import platform
import threading
import time
import zlib
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Final, Protocol, Self

import numpy as np
from numpy.typing import NDArray

import chunkwise
from chunkwise.contract import Action, ActionChunk, Frame, PolicySpec, RobotSpec
from chunkwise.contract.packing import Buffer, Packed
from chunkwise.contract.packing import Path as TreePath
from chunkwise.recording import container
from chunkwise.recording.container import Message
from chunkwise.recording.errors import RecordingError
from chunkwise.recording.records import (
    Event,
    Header,
    Tree,
    action_tree,
    chunk_tree,
    frame_tree,
    header_tree,
    turn_tree,
)

TOPICS: Final = ("episode", "frame", "action", "chunk", "turn", "end")
NUMBERS: Final = {topic: number for number, topic in enumerate(TOPICS, start=1)}
PERIOD_S: Final = 0.05
"""How often what was recorded goes to the operating system: what a crash may cost, and less than a second."""
CHUNK_BYTES: Final = 8 << 20
"""A chunk of the file is closed when it is larger than this."""
MAX_RECORDS: Final = 1 << 16
"""Records that may wait for the disk; beyond, they are dropped and counted."""


class EventReader(Protocol):
    """One reader's place in a stream of events (`runtime.events.Reader`)."""

    lost: int

    def take(self) -> Sequence[Event]:
        """Every event since the last call, oldest first, without waiting."""
        ...


class EpisodeWriter:
    """Records one episode into one new file; a context manager, and a :class:`~chunkwise.recording.Recorder`.

    ::

        with EpisodeWriter("episode.mcap", robot=robot.spec, control_hz=50.0) as writer:
            frame = robot.observe()
            writer.frame(frame, step=step)
            writer.action(action, robot.act(action), step=step)

    The calls that record copy what is small, keep images by reference, and return: a thread of the writer's own
    does the rest, every :data:`PERIOD_S`.  Where the disk is slower than the robot, images are dropped first, and
    every one is counted, in :attr:`dropped` and in the file.  Nothing that goes wrong in the thread reaches the
    loop; :meth:`close` says it.

    Args:
        path: of the file; it must not exist.
        robot, policy, control_hz, meta: for the header.
        copy_images: for drivers that write again into arrays which they handed out.
        patient: wait for the disk instead of dropping: for scripts, not for a control loop.
        queue_bytes: images that may wait for the disk.
        wall_ns: the time that records are stamped with.

    Attributes:
        written: records in the file by kind.
        error: what stopped the writing, or None.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        robot: RobotSpec | None = None,
        policy: PolicySpec | None = None,
        control_hz: float | None = None,
        meta: dict[str, Any] | None = None,
        copy_images: bool = False,
        patient: bool = False,
        queue_bytes: int = 256 << 20,
        wall_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self.path = Path(path)
        rate = control_hz or (robot.control_hz if robot is not None else None)
        self._header = Header(robot, policy, rate, meta or {})
        self._copy_images, self._patient, self._queue_bytes = copy_images, patient, queue_bytes
        self._wall_ns = wall_ns
        self.written: Counter[str] = Counter()
        self._refused: Counter[str] = Counter()  # by the callers' threads
        self._failed: Counter[str] = Counter()  # by the writer's own
        self.error: Exception | None = None
        self._readers: list[EventReader] = []
        # One side appends, the other takes from the left, and each counter has one side that writes it: no lock.
        self._queue: deque[tuple[str, int, Tree, int]] = deque()
        self._bytes_in = self._bytes_out = 0
        self._sequence = 0
        self._shown = _Shown()
        self._wake, self._stop, self._drained = threading.Event(), threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        self._file: BinaryIO | None = None

    def open(self) -> None:
        """Make the file, with its header.

        Raises:
            FileExistsError: recordings are not written over.
            RecordingError: the header's meta is too large.
            OSError: the file cannot be made.
        """
        if self._file is not None:
            return
        header = self._header
        header.versions = {
            "chunkwise": chunkwise.__version__,
            "python": platform.python_version(),
            "numpy": np.__version__,
        }
        header.wall_ns, header.monotonic_ns = self._wall_ns(), time.monotonic_ns()
        packed = Packed(header_tree(header)).buffers
        self._file = open(self.path, "xb")  # noqa: SIM115  closed by close()
        try:
            library = f"chunkwise {chunkwise.__version__}"
            self._file.write(container.beginning("chunkwise", library, TOPICS, "chunkwise"))
            self._write([self._message("episode", header.wall_ns, packed)])
        except OSError:
            file, self._file = self._file, None
            with suppress(OSError):
                file.close()
            raise
        self._thread = threading.Thread(target=self._run, name="chunkwise-recorder", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except RecordingError:
            if error is None:  # else the one that ends the block says more
                raise

    def frame(self, frame: Frame, *, step: int | None = None) -> None:
        """Record an observation; from one thread at a time."""
        images, dropped = frame.images, []
        size = sum(image.nbytes for image in images.values())
        if size and not self._room(size):
            self._refused["images"] += len(images)
            images, dropped, size = {}, list(images), 0
        if self._copy_images:
            images = {name: image.copy() for name, image in images.items()}
        self._bytes_in += size
        self._put("frame", frame_tree(frame, step, images=images, dropped=dropped), size)

    def action(self, commanded: Action, applied: Action | None = None, *, step: int | None = None) -> None:
        """Record what the robot was told, and what it said that it did."""
        self._put("action", action_tree(commanded, applied, step))

    def chunk(self, chunk: ActionChunk, *, request: int | None = None, request_step: int | None = None) -> None:
        """Record a policy's answer; from any thread."""
        self._put("chunk", chunk_tree(chunk, request, request_step))

    def write(self, event: Event) -> None:
        """Record one turn of the control loop."""
        self._put("turn", turn_tree(event))

    def follow(self, reader: EventReader) -> None:
        """Record every event of a stream: the writer's thread collects them, and the loop does nothing for it."""
        self._readers.append(reader)

    def close(self) -> None:
        """Write what waits, and end the file.  Twice is fine.

        Raises:
            RecordingError: something went wrong since :meth:`open`; the file holds what came before.
        """
        if self._file is None:
            return
        self._stop.set()
        self._wake.set()
        assert self._thread is not None
        self._thread.join()
        self._failed.update(topic for topic, *_ in self._queue)  # left behind by an error, or come too late
        self._queue.clear()
        try:
            if self.error is None:
                lost = sum(reader.lost for reader in self._readers)
                end = {"written": self.written, "dropped": self.dropped, "events_lost": lost}
                self._write([self._message("end", self._wall_ns(), Packed(end).buffers)])
                self._file.write(container.ending())
            self._file.close()
        except OSError as error:
            self.error = self.error or error
        self._file = None
        if self.error is not None:
            raise RecordingError(f"{self.path}: {self.error}") from self.error

    @property
    def dropped(self) -> Counter[str]:
        """Records by kind, and ``images`` one by one, that are not in the file."""
        return self._refused + self._failed

    def _put(self, topic: str, tree: Tree, size: int = 0) -> None:
        if self._file is None or self.error is not None or (len(self._queue) >= MAX_RECORDS and not self._room(0)):
            self._refused[topic] += 1
            self._bytes_in -= size
            return
        self._queue.append((topic, self._wall_ns(), tree, size))

    def _room(self, size: int) -> bool:
        """Whether so many bytes of images may wait for the disk; a patient writer first waits until they may."""
        while True:
            waiting = self._bytes_in - self._bytes_out
            if len(self._queue) < MAX_RECORDS and (not waiting or waiting + size <= self._queue_bytes):
                return True
            if not self._patient or self.error is not None or self._file is None:
                return False
            self._drained.clear()
            self._wake.set()
            self._drained.wait(PERIOD_S)  # bounded: a writer that has failed drains nothing any more

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                self._wake.wait(PERIOD_S)
                self._wake.clear()
                self._drain()
            self._drain()
        except Exception as error:  # noqa: BLE001  close() says it; the loop goes on
            self.error = error

    def _drain(self) -> None:
        """Everything that waits, into the file."""
        for reader in self._readers:
            self._queue.extend(("turn", self._wall_ns(), turn_tree(event), 0) for event in reader.take())
        while self._queue:
            batch: list[Message] = []
            size = images = 0
            while self._queue and size < CHUNK_BYTES:
                topic, time_ns, tree, held = self._queue.popleft()
                images += held
                message = self._packed(topic, time_ns, tree)
                if message is not None:
                    batch.append(message)
                    size += sum(map(len, message.data))
            if batch:
                self._write(batch)
            self._bytes_out += images
            self._drained.set()

    def _packed(self, topic: str, time_ns: int, tree: Tree) -> Message | None:
        try:
            packed = Packed(tree, self._shown.same) if topic == "frame" else Packed(tree)
        except (ValueError, TypeError, RuntimeError):  # JSON cannot write it, it is too large, or it changes yet
            self._failed[topic] += 1
            self._shown.forget()
            return None
        if topic == "frame":
            self._shown.commit()
        return self._message(topic, time_ns, packed.buffers)

    def _message(self, topic: str, time_ns: int, buffers: Sequence[Buffer]) -> Message:
        self._sequence += 1
        return Message(topic, self._sequence - 1, time_ns, buffers)

    def _write(self, batch: Sequence[Message]) -> None:
        assert self._file is not None
        for piece in container.chunk(batch, NUMBERS):
            self._file.write(piece)
        self._file.flush()
        self.written.update(message.topic for message in batch)


class _Shown:
    """The image that each camera showed last, to write it once however often it is seen.

    The same array with other bytes is of a driver that writes again into what it handed out: another image.
    """

    def __init__(self) -> None:
        self._last: dict[TreePath, tuple[NDArray[Any], int]] = {}
        self._next: dict[TreePath, tuple[NDArray[Any], int]] = {}

    def same(self, path: TreePath, array: NDArray[Any], data: memoryview) -> bool:
        """Whether the file has this image as the camera's last one."""
        if path[0] != "images":
            return False
        last, checksum = self._last.get(path, (None, 0)), zlib.crc32(data)
        self._next[path] = array, checksum
        return last[0] is array and last[1] == checksum

    def commit(self) -> None:
        """What was asked about is in the file now."""
        self._last.update(self._next)
        self.forget()

    def forget(self) -> None:
        """What was asked about since the last commit is not in the file."""
        self._next.clear()
