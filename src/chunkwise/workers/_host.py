"""A policy in another process: what its stand-in and its worker have in common."""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from chunkwise.contract import (
    Binding,
    ChunkRequest,
    Frame,
    PolicyFailed,
    PolicySpec,
    PolicyTimedOut,
    RobotSpec,
    spec_to_dict,
)
from chunkwise.memory import Memory
from chunkwise.policies import Recipe
from chunkwise.workers import WorkerFailed
from chunkwise.workers._channel import Gone
from chunkwise.workers._keeper import Keeper
from chunkwise.workers._process import InferenceProcess, Place
from chunkwise.workers._ring import INFER, Placed, RingWriter
from chunkwise.workers._trees import asked, error_of, kinds_tree, spec_of

CAUSE_S = 1.0
"""How long the end of a process is waited for, once nobody answers, to say what it came from."""
RESET_S = 5.0
"""An inference that is under way when an episode begins has so long to end."""
SILENT_S = 2.0
WORDS = {
    "make": "load its policy",
    "meet": "let its policy meet the robot",
    "warmup": "warm its policy up",
    "bind": "bind its policy to the robot",
    "reset": "begin an episode",
    "leave": "end a conversation",
    "infer": "answer",
}
SIDE_S = 5.0
"""What must not wait for an inference is given up after this."""


class Host:
    """Starts the process, asks it, and gives it up when it does not answer.

    One thread asks at a time; `side` calls may come from another one.

    Args:
        recipe: of the policy.
        place: where it runs.
        say: told what people should know: that the process has ended, and why, and that it starts again.

    Attributes:
        lock: held by whoever asks.
        policy: the name of the policy's class.
        has: optional methods that the policy has.
        spec: of the policy; None where it has none.

    Raises:
        WorkerFailed: the process could not be started, or ended, or loads for too long.
        Exception: of a kind of ours, where the recipe is wrong: its text says what can be done.
    """

    def __init__(self, recipe: Recipe, place: Place, say: Callable[[str], None]) -> None:
        self._recipe, self.place, self._say = recipe, place, say
        self._numbers = itertools.count(1)
        self.lock, self._side_lock, self._news_lock = threading.RLock(), threading.Lock(), threading.Lock()
        self._process: InferenceProcess | None = None
        self._ring = RingWriter(place.slots, checksum=bool(place.checksum))
        self._known: object = None  # the ring that the process has
        self._busy: set[int] = set()  # slots that the policy still looks at
        self._outstanding: dict[int, int] = {}  # slots of calls that are not answered yet
        self._strays: deque[dict[str, Any]] = deque(maxlen=8)
        self._robots: dict[int, dict[str, Any]] = {}
        self._binding: dict[str, Any] | None = None
        self._warm = False
        self._returned = False
        self.policy, self.has = "", frozenset[str]()
        self.spec: PolicySpec | None = None
        self._closed = False
        self._ready = threading.Event()
        self._keeper = Keeper(place, self._make, self._publish, say)
        self._keeper.start()

    @property
    def pid(self) -> int | None:
        """Of the process; None while there is none that is ready."""
        process = self._process
        return None if process is None else process.pid

    def ready(self, timeout_s: float | None = 0.0) -> bool:
        """Whether there is a process that can be asked; waits at most so long for it, for ever with None."""
        return self._ready.wait(timeout_s)

    @property
    def restarts(self) -> int:
        """How often the process was started again."""
        return self._keeper.restarts

    # Asking and waiting ---------------------------------------------------------------------------------------

    def ask(self, call: str, arguments: dict[str, Any], timeout_s: float | None = None) -> dict[str, Any]:
        """Ask, and wait for the answer.

        Raises:
            PolicyTimedOut: there was none in time; the process is replaced.
            WorkerFailed: there is no process, or it has ended, or the policy raised.
        """
        with self.lock:
            process = self.process()
            number = next(self._numbers)
            try:
                process.work.send({"call": call, "id": number, **arguments})
            except Gone as gone:
                raise WorkerFailed(self.cause(process)) from gone
            return self._reply(process, number, call, timeout_s or self.place.timeout_s)

    def infer(self, frame: Frame, request: ChunkRequest, conversation: int) -> dict[str, Any]:
        """One inference, waited for.

        Raises:
            InterfaceValidationError: the frame cannot be given to another process.
            PolicyTimedOut, WorkerFailed: as :meth:`ask`.
        """
        with self.lock:
            process = self.process()
            number = next(self._numbers)
            placed = self.write(frame, request)
            try:
                self.begin(process, number, placed, bound=False, conversation=conversation)
            except Gone as gone:
                raise WorkerFailed(self.cause(process)) from gone
            return self._reply(process, number, "infer", self.place.timeout_s)

    def ask_aside(self, call: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """Ask what does not wait for an inference.

        Raises:
            PolicyTimedOut, WorkerFailed: as :meth:`ask`.
        """
        with self._side_lock:
            process = self.process()
            number = next(self._numbers)
            try:
                process.side.send({"call": call, "id": number, **arguments})
                until_s = time.monotonic() + SIDE_S
                while (received := process.side.receive(until_s - time.monotonic())) is not None:
                    if received[0]["id"] == number:
                        return _good(received[0])
            except Gone as gone:
                raise WorkerFailed(self.cause(process)) from gone
            raise PolicyTimedOut(
                f"the inference process (pid {process.pid}) did not {WORDS[call]} within {SIDE_S:g} s"
            )

    def _reply(self, process: InferenceProcess, number: int, call: str, timeout_s: float) -> dict[str, Any]:
        until_s = time.monotonic() + timeout_s
        while True:
            try:
                message = self._read(process, until_s - time.monotonic())
            except Gone as gone:
                raise WorkerFailed(self.cause(process)) from gone
            if message is None:
                why = f"did not {WORDS[call]} within {timeout_s:g} s{silence(process)}"
                self.replace(why)
                raise PolicyTimedOut(f"the inference process (pid {process.pid}) {why}")
            if message["id"] == number:
                return _good(message)
            self._strays.append(message)

    # Pieces of it, for a worker; the lock is held -------------------------------------------------------------

    def process(self) -> InferenceProcess:
        """The one that is ready.

        Raises:
            WorkerFailed: there is none now, and why.
        """
        process = self._process
        if process is None:
            why = "it is closed" if self._closed else self._keeper.why
            raise WorkerFailed(f"the policy has no process: {why}")
        return process

    def write(self, frame: Frame, request: ChunkRequest) -> Placed:
        """Copy a frame and a request into shared memory, where nobody looks.

        What was written and not asked yet may be written over.

        Raises:
            InterfaceValidationError: it cannot be given to another process.
            WorkerFailed: there is no memory for it.
        """
        try:
            return self._ring.write(asked(frame, request), self._busy.union(self._outstanding.values()))
        except (OSError, BufferError) as error:
            raise WorkerFailed(f"no shared memory for a frame: {error}") from error

    def begin(
        self, process: InferenceProcess, number: int, placed: Placed, *, bound: bool, conversation: int = 0
    ) -> None:
        """Ask for the inference of what was written.

        Raises:
            Gone: the process has ended.
        """
        call = INFER.pack(number, conversation, bound) + placed.to_bytes()
        try:
            process.work.send_bytes(call, self._new_ring())
        except Gone:
            self._forget(process, "it has ended")
            raise
        self._outstanding[number] = placed.slot

    def _new_ring(self) -> Memory | None:
        """The ring, where the process does not have it yet."""
        ring = self._ring.memory
        if self._known is ring:
            return None
        self._known = ring
        return ring

    def number(self) -> int:
        """Of the next call."""
        return next(self._numbers)

    def received(self, process: InferenceProcess, timeout_s: float | None = 0.0) -> dict[str, Any] | None:
        """The next message of the process, None where none came in time.

        Raises:
            Gone: it has ended.
        """
        return self._strays.popleft() if self._strays else self._read(process, timeout_s)

    def _read(self, process: InferenceProcess, timeout_s: float | None) -> dict[str, Any] | None:
        try:
            received = process.work.receive(timeout_s)
        except ValueError as error:  # bytes that are no message: somebody else writes there
            self.replace(f"wrote what is no message: {error}")
            raise Gone(str(error)) from error
        except Gone:
            self._forget(process, "it has ended")
            raise
        if received is None:
            return None
        message = received[0]
        self._outstanding.pop(message["id"], None)
        self._busy = set(message.get("busy", ()))
        if "error" not in message:
            self._keeper.healthy()
        return message

    def await_news(self, process: InferenceProcess, timeout_s: float | None) -> None:
        """Until there is a message of the process, or its end, at most so long; the lock is not held."""
        with self._news_lock:
            process.work.ready(timeout_s)

    def returned(self) -> bool:
        """Whether the process was started again since this was asked last."""
        returned, self._returned = self._returned, False
        return returned

    def cause(self, process: InferenceProcess) -> str:
        """Why a process that does not answer has ended; waits a moment for the answer to that."""
        self._forget(process, "it has ended")
        if not process.ended.wait(CAUSE_S):
            self.end(process, "closed its end of the socket")
            process.ended.wait(CAUSE_S)
        return process.cause or f"the inference process (pid {process.pid}) has ended"

    def replace(self, why: str) -> None:
        """Give up the process, and have another one started; returns at once."""
        with self.lock:
            process = self._process
            if process is not None:
                self.end(process, why)

    def end(self, process: InferenceProcess, why: str) -> None:
        """The same with this process, which may have been given up already."""
        self._forget(process, f"it {why}")
        self._keeper.replace(process, why)

    def _forget(self, process: InferenceProcess, why: str) -> None:
        """Ask this process no more."""
        with self.lock:
            if self._process is process:
                self._process, self._keeper.why = None, why
                self._ready.clear()

    def close(self, *, busy: bool = False) -> None:
        """End the process, and let everything go; an inference has little time to end.  Twice is fine."""
        self._closed = True
        self._keeper.close(busy=busy or bool(self._outstanding))
        with self.lock:
            self._process = None
            self._ring.close()

    # What the policy was told, and is told again by every new process -------------------------------------------

    def meet(self, robot: RobotSpec, conversation: int) -> PolicySpec | None:
        """Tell the policy its robot; its spec, which may be another one now.

        Raises:
            Exception: as :meth:`ask`, or what the policy says to that.
        """
        tree = spec_to_dict(robot)
        arguments = {"robot": tree, "conversation": conversation}
        answer = self.ask_aside("meet", arguments) if conversation else self.ask("meet", arguments)
        self._robots[conversation] = tree
        return spec_of(answer["spec"])

    def warm_up(self) -> None:
        """Let the policy warm up; a start is what may take long.

        Raises:
            Exception: as :meth:`ask`.
        """
        self.ask("warmup", {"conversation": 0}, self.place.start_timeout_s)
        self._warm = True

    def bind(self, binding: Binding) -> None:
        """Let the process bind the policy to its robot, for inferences that are `bound`.

        Raises:
            Exception: as :meth:`ask`.
        """
        tree = {"robot": spec_to_dict(binding.robot), "policy": spec_to_dict(binding.policy)}
        self.ask("bind", tree)
        self._binding = tree

    def reset(self, conversation: int) -> None:
        """Let the policy begin an episode; one whose process is started anew has forgotten everything already.

        Raises:
            Exception: what the policy says to that.
        """
        try:
            self.ask("reset", {"conversation": conversation}, RESET_S)
        except (WorkerFailed, PolicyTimedOut):
            return

    def leave(self, conversation: int) -> None:
        """A conversation is over."""
        self._robots.pop(conversation, None)
        self.ask("leave", {"conversation": conversation})

    # On the keeper's thread -----------------------------------------------------------------------------------

    def _make(self, process: InferenceProcess, keeper: Keeper) -> None:
        """Load the policy, and tell it what it was told before."""
        until_s = time.monotonic() + self.place.start_timeout_s

        def ask(call: str, **arguments: Any) -> dict[str, Any]:
            gone = False
            try:
                process.work.send({"call": call, "id": 0, **arguments})
                if keeper.await_reply(process, until_s) and (received := process.work.receive(1.0)) is not None:
                    return _good(received[0])
            except PolicyFailed as error:
                if type(error) is not PolicyFailed:  # of ours: its text says what can be done
                    raise
                raise WorkerFailed("\n".join([str(error), *getattr(error, "__notes__", ())])) from None
            except Gone:
                gone = True
            took = (
                "was closed"
                if keeper.closing
                else f"did not {WORDS[call]} within {self.place.start_timeout_s:g} s{silence(process)}"
            )
            if process.ends(CAUSE_S if gone else 0.0):
                process.reap()
            else:
                keeper.end(process, took)
            raise WorkerFailed(process.cause)

        recipe = self._recipe.to_dict()
        made = ask("make", recipe=recipe, kinds=kinds_tree(), threads=self.place.pool, slots=self.place.slots)
        if made["left_out"]:
            self._say(f"{', '.join(made['left_out'])} of the policy stays in its process: it is no plain value")
        self.policy, self.has, self.spec = made["policy"], frozenset(made["has"]), spec_of(made["spec"])
        for conversation, robot in list(self._robots.items()):
            self.spec = spec_of(ask("meet", robot=robot, conversation=conversation)["spec"]) or self.spec
        if self._warm:
            ask("warmup", conversation=0)
        if self._binding is not None:
            ask("bind", **self._binding)

    def _publish(self, process: InferenceProcess | None) -> None:
        # In the order in which `ask_aside` takes them.  Whoever waits for news goes on, for the channel was shut;
        # whoever is about to must not find another file under its number.
        with self._side_lock, self._news_lock, self.lock:
            self._returned = self._returned or (process is not None and self._keeper.restarts > 0)
            self._process = process
            self._known = None
            self._busy.clear()
            self._outstanding.clear()
            self._strays.clear()
            if process is None:
                self._ready.clear()
            else:
                self._ready.set()


def _good(message: dict[str, Any]) -> dict[str, Any]:
    """A message that is no error.

    Raises:
        Exception: what went wrong in the process.
    """
    if "error" in message:
        raise error_of(message["error"])
    return message


def silence(process: InferenceProcess) -> str:
    """What a process that does not answer does, as far as its pulse says; empty where it beats."""
    age_s = process.pulse_age_s()
    if age_s is None or age_s < SILENT_S:
        return ""
    return f" (no pulse for {age_s:.1f} s: it is stopped, or its policy holds the interpreter)"
