"""A policy behind a wire: on the GPU's machine, in another process, or of another project."""

from __future__ import annotations

import itertools
import os
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from chunkwise import options, plugins
from chunkwise.contract import (
    ActionChunk,
    ChunkRequest,
    Frame,
    InterfaceValidationError,
    PolicyFailed,
    PolicySpec,
    PolicyTimedOut,
    RobotSpec,
)
from chunkwise.policies._models import MODEL
from chunkwise.policies._pictures import smaller
from chunkwise.transports import Address, Link, Transport
from chunkwise.transports._memory import attach
from chunkwise.wires import (
    Answered,
    ClientHalf,
    Event,
    Failed,
    Offered,
    Readiness,
    Sending,
    Trouble,
    Welcome,
    Wire,
    WireError,
)

__all__ = ["Remote"]

BACK_OFF_S = (0.0, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
"""Before the next try to reconnect; the last one repeats."""
POLL_S = 0.25
"""How often a server that loads is asked whether it is ready."""
KEPT_FILES = 5
SHARED_FROM_BYTES = 64 << 10
"""Smaller frames go through the socket, which is as quick."""
PROBE_BYTES = 256 << 10
JPEG_BELOW_BYTES_S = 330e6
"""On a faster link, coding three pictures of 224 x 224 as JPEG and back takes longer than sending them raw."""
MAX_TRANSITIONS = 256


class State(StrEnum):
    """How the connection is."""

    CONNECTING = "connecting"
    STREAMING = "streaming"
    DEGRADED = "degraded"  # the last request was refused, or answered too late
    STALLED = "stalled"  # nothing was heard for a whole time-out
    RECONNECTING = "reconnecting"
    CLOSED = "closed"


class Remote:
    """A foreign server as a policy: ``native+unix:///run/x.sock``, ``ark+http://127.0.0.1:8000``, ...

    Pictures are sent as they are; to another machine, those that are larger than what the policy behind the server
    reads are made its size first, as its image rule says.

    Connects when it is made, so that its spec is known.  A connection that is lost is made again by the next call
    that comes late enough; the calls in between fail at once, and the robot runs its plan and holds.

    Args:
        url: ``WIRE+TRANSPORT://...``, or ``WIRE://...`` over the wire's usual transport.  Its query holds options
            of the wire.
        model: which of the server's models is meant, where it has several: the entry ``model`` of a frame's task.
        timeout_s: an answer that takes longer is given up.
        start_timeout_s: a server that loads for longer is given up.
        token: the secret that the server asks for; CHUNKWISE_TOKEN where it is empty.
        tls: encrypt, and check the server's certificate.
        ca_file: certificates that are trusted in place of the system's.
        on_state: told every change: the old state, the new one, and why.

    Attributes:
        state: how the connection is.
        transitions: the last changes: time (monotonic), state, why.

    Raises:
        PolicyFailed: nobody listens there, or who listens refuses; the text says why.
        InterfaceValidationError: a `model` over a wire that cannot say it.
    """

    def __init__(
        self,
        *,
        url: str,
        model: str = "",
        timeout_s: float = 5.0,
        start_timeout_s: float = 120.0,
        token: str = "",
        tls: bool = False,
        ca_file: Path | None = None,
        on_state: Callable[[State, State, str], None] = lambda old, new, why: None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.url, self._timeout_s, self._start_timeout_s = url, timeout_s, start_timeout_s
        self._token = token or os.environ.get("CHUNKWISE_TOKEN", "")
        self._tls = ssl.create_default_context(cafile=None if ca_file is None else str(ca_file)) if tls else None
        self._on_state, self._clock, self._sleep = on_state, clock, sleep
        self._wire, self._transport, self._address = _parts(url)
        self._model = model
        if model and not getattr(self._wire, "whole_task", False):
            raise InterfaceValidationError(f"{url}: this wire cannot say which model is meant; native can")
        self._ids = itertools.count(1)
        self._lock = threading.Lock()
        self._half: ClientHalf | None = None
        self._link: Link | None = None
        self._spec: PolicySpec | None = None
        self._robot: RobotSpec | None = None
        self._session = ""
        self._files: deque[Path] = deque()
        self._tries, self._next_try_s = 0, 0.0
        self._news = self._reset_due = self._memory_asked = False
        self.state = State.CONNECTING
        self.transitions: deque[tuple[float, State, str]] = deque(maxlen=MAX_TRANSITIONS)
        try:
            self._connect()
        except (OSError, WireError) as error:
            self.close()
            raise PolicyFailed(f"{url}: {_why(error)}") from error
        except BaseException:
            self.close()
            raise

    @property
    def spec(self) -> PolicySpec | None:
        """The policy's, as the server said it; None where it has none before its first answer.

        It has no image rules: pictures leave as the camera gave them, and the server applies its policy's rules.
        What `model` says needs nobody else to say it.
        """
        if self._spec is None:
            return None
        keys = [key for key in self._spec.required_task_keys if key != MODEL or not self._model]
        return replace(self._spec, images={}, required_task_keys=keys)

    def meet(self, robot: RobotSpec) -> None:
        """Tell the server what it drives, so that it, too, can say whether that fits.

        Raises:
            PolicyFailed: it does not fit.
        """
        self._robot = robot
        half = self._half
        if not hasattr(half, "robot") or self._link is None:
            return
        with self._lock:
            try:
                self._greet(self._clock() + self._start_timeout_s)
            except (OSError, WireError) as error:
                self._lose(error)
                raise PolicyFailed(f"{self.url}: {_why(error)}") from error

    def infer(self, frame: Frame, request: ChunkRequest) -> ActionChunk:
        """The server's answer.

        Raises:
            PolicyTimedOut: there was none in time.
            PolicyFailed: the server says that it has none, and why; or the connection is lost.
        """
        with self._lock:
            self._reconnected()
            try:
                return self._infer(frame, request)
            except (OSError, WireError) as error:
                self._lose(error)
                raise PolicyFailed(f"{self.url}: {_why(error)}") from error

    def reset(self) -> None:
        """Tell the server that an episode ends; where it cannot be told now, with the next request."""
        if not self._lock.acquire(timeout=self._timeout_s):
            self._reset_due = True
            return
        try:
            self._reset_due = True
            if self._link is not None:
                self._tell_reset()
        except (OSError, WireError, InterfaceValidationError) as error:
            self._lose(error)
        finally:
            self._lock.release()

    def close(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            link.close()
        for path in self._files:
            path.unlink(missing_ok=True)
        self._files.clear()
        self._become(State.CLOSED, "closed")

    # One request ----------------------------------------------------------------------------------------------

    def _infer(self, frame: Frame, request: ChunkRequest) -> ActionChunk:
        half = self._open_half()
        if self._reset_due:
            self._tell_reset()
        self._share_memory(frame)
        id = next(self._ids)
        if self._spec is not None and not self._open_link().local:
            frame = smaller(frame, self._spec.images)
        if self._model:
            frame = replace(frame, task={**frame.task, MODEL: self._model})
        self._send(half.ask(id, frame, request, self._timeout_s))
        event = self._await(id, self._timeout_s)
        if event is None:
            self._give_up(half, id)
            raise PolicyTimedOut(f"{self.url}: no answer within {self._timeout_s:g} s")
        if isinstance(event, Failed) and event.problem.kind is Trouble.DEADLINE:
            self._become(State.STALLED, event.problem.text)
            raise PolicyTimedOut(f"{self.url}: {event.problem.text}")
        if isinstance(event, Failed):
            self._become(State.DEGRADED, event.problem.text)
            raise PolicyFailed(f"{self.url}: {event.problem.kind}: {event.problem.text}")
        assert isinstance(event, Answered)
        if event.chunk is None:
            raise WireError("an empty answer to a request")
        self._become(State.STREAMING, "")
        self._tries = 0
        if self._news:
            self._news = False
            event.chunk.meta["reconnected"] = True
        return event.chunk

    def _give_up(self, half: ClientHalf, id: int) -> None:
        self._become(State.STALLED, f"no answer within {self._timeout_s:g} s")
        if half.lockstep:  # the next answer would be taken for another one's
            self._lose(TimeoutError("no answer in time, and its protocol knows no numbers"))
        elif hasattr(half, "cancel"):
            self._send(half.cancel(id))

    def _await(self, id: int, timeout_s: float) -> Event | None:
        """The event that answers call `id`; others, of calls given up, are dropped."""
        until_s = self._clock() + timeout_s
        while True:
            left_s = until_s - self._clock()
            data = None if left_s <= 0 else self._open_link().receive(left_s)
            if data is None:
                return None
            found: Event | None = None
            for event in self._open_half().receive(data, self._clock()):
                if isinstance(event, Failed) and event.id is None:
                    raise WireError(f"{event.problem.kind}: {event.problem.text}")
                if (isinstance(event, (Answered, Failed)) and event.id == id) or (
                    isinstance(event, (Welcome, Offered)) and id == 0
                ):
                    found = event
            if found is not None:
                return found

    def _send(self, sending: Sending | None) -> None:
        if sending is None:
            return
        for path, buffers in sending.files.items():
            self._write(Path(path), buffers)
        self._open_link().send(sending.data, self._timeout_s)

    def _write(self, path: Path, buffers: Sequence[Any]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        self._files.append(path)
        with open(fd, "wb") as file:
            for buffer in buffers:
                file.write(buffer)
        while len(self._files) > KEPT_FILES:
            self._files.popleft().unlink(missing_ok=True)

    def _tell_reset(self) -> None:
        id = next(self._ids)
        sending = self._open_half().reset(id)
        if sending is not None:
            self._send(sending)
            event = self._await(id, self._timeout_s)
            if not isinstance(event, Answered):
                said = (
                    event.problem.text if isinstance(event, Failed) else f"no answer within {self._timeout_s:g} s"
                )
                raise PolicyFailed(f"{self.url}: the episode could not be reset: {said}")
        self._reset_due = False

    def _share_memory(self, frame: Frame) -> None:
        """Ask for shared memory once there is something to put there, where both ends share a host."""
        half: Any = self._half
        if self._memory_asked or not self._open_link().local or not getattr(self._wire, "shared_memory", False):
            return
        size = sum(image.nbytes for image in frame.images.values())
        if size < SHARED_FROM_BYTES:
            return
        self._memory_asked = True
        self._send(half.ask_for_memory(0, min(5 * size + (1 << 18), 64 << 20)))
        offered = self._await(0, self._timeout_s)
        if isinstance(offered, Offered):
            memory = attach(offered.path, offered.size, offered.nonce)
            if memory is not None:
                half.share(memory)

    # The connection -------------------------------------------------------------------------------------------

    def _open_half(self) -> ClientHalf:
        assert self._half is not None
        return self._half

    def _open_link(self) -> Link:
        link = self._link
        if link is None:
            raise ConnectionError("closed")
        return link

    def _connect(self) -> None:
        """Connect and greet, until the server is ready."""
        until_s = self._clock() + self._start_timeout_s
        half: Any = self._wire.client()
        self._link = self._transport.connect(
            self._address, timeout_s=self._timeout_s, tls=self._tls, token=self._token
        )
        if self.state is State.CLOSED:  # by another thread, meanwhile
            self._link.close()
            raise ConnectionError("closed")
        self._half = half
        self._memory_asked = False
        if hasattr(half, "token"):
            half.token = self._token
        if hasattr(half, "session"):
            half.session = self._session or half.session
        if hasattr(half, "expects"):
            half.expects = self._spec
        self._greet(until_s)
        self._measure()
        self._become(State.STREAMING, "")

    def _greet(self, until_s: float) -> None:
        half: Any = self._half
        if hasattr(half, "robot"):
            half.robot = self._robot
        while True:
            opening = half.opening()
            if opening is None:
                break
            self._send(opening)
            left_s = until_s - self._clock()  # a server that says nothing while it loads may use all of it
            event = self._await(0, left_s if getattr(half, "patient", False) else min(self._timeout_s, left_s))
            if event is None:
                raise TimeoutError("the server accepted the connection and says nothing")
            if isinstance(event, Failed):
                raise PolicyFailed(f"{self.url}: {event.problem.kind}: {event.problem.text}")
            assert isinstance(event, Welcome)
            if event.offer.readiness not in (Readiness.LOADING, Readiness.FAILED):
                self._session = event.offer.session
                break
            if event.offer.readiness is Readiness.FAILED:
                raise PolicyFailed(f"{self.url}: the server's policy did not load: {event.offer.detail}")
            if self._clock() > until_s:
                raise TimeoutError(f"the server still loads its policy: {event.offer.detail}")
            self._sleep(POLL_S)
        self._spec = half.spec

    def _measure(self) -> None:
        """Choose JPEG or raw images by what the link carries."""
        half: Any = self._half
        if getattr(self._wire, "images", "raw") != "auto" or self._open_link().local or not hasattr(half, "probe"):
            return
        with suppress(plugins.MissingExtra):
            plugins.require("simplejpeg", extra="jpeg")
            half.jpeg = self._round_trip_s(0) + PROBE_BYTES / JPEG_BELOW_BYTES_S < self._round_trip_s(PROBE_BYTES)

    def _round_trip_s(self, ballast: int) -> float:
        half: Any = self._half
        best = float("inf")
        for _ in range(3):
            id, began_s = next(self._ids), time.perf_counter()
            self._send(half.probe(id, ballast))
            if self._await(id, self._timeout_s) is None:
                raise TimeoutError("the server does not answer")
            best = min(best, time.perf_counter() - began_s)
        return best

    def _reconnected(self) -> None:
        """Make the connection again where it was lost, unless that was tried a moment ago."""
        if self.state is State.CLOSED:
            raise PolicyFailed(f"{self.url}: closed")
        if self._link is not None:
            return
        now_s = self._clock()
        if now_s < self._next_try_s:
            raise PolicyFailed(f"{self.url}: {self.state}, the next try is in {self._next_try_s - now_s:.2g} s")
        try:
            self._connect()
            self._news = True
        except (OSError, WireError, InterfaceValidationError) as error:
            self._lose(error)
            raise PolicyFailed(f"{self.url}: {_why(error)}") from error

    def _lose(self, error: BaseException) -> None:
        link, self._link = self._link, None
        if link is not None:
            link.close()
        if self.state is State.CLOSED:
            return
        self._next_try_s = self._clock() + BACK_OFF_S[min(self._tries, len(BACK_OFF_S) - 1)]
        self._tries += 1
        self._become(State.RECONNECTING, _why(error))

    def _become(self, state: State, why: str) -> None:
        old, self.state = self.state, state
        if old is not state:
            self.transitions.append((self._clock(), state, why))
            self._on_state(old, state, why)


def _parts(url: str) -> tuple[Wire, Transport, Address]:
    """The wire, the transport and the address of ``WIRE+TRANSPORT://...``."""
    scheme, _, rest = url.partition(":")
    name, _, transport = scheme.partition("+")
    maker = plugins.load("wires", name)
    address = Address.parse(f"{transport or maker.transports[0]}:{rest}")
    if address.transport not in maker.transports:
        raise InterfaceValidationError(f"{url}: {name} is carried by {', '.join(maker.transports)}")
    wire: Wire = maker(**options.chosen(maker, address.options, f"wire {name}"))
    return wire, plugins.load("transports", address.transport)(), address


def _why(error: BaseException) -> str:
    if isinstance(error, FileNotFoundError):
        return "nobody listens there: the socket does not exist"
    if isinstance(error, ConnectionRefusedError):
        return "nobody listens there"
    return str(error) or type(error).__name__
