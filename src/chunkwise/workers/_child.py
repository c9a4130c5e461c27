"""The inference process: makes the policy, and answers what it is asked, one call after another.

Calls come through the socket ``work`` and are answered in their order, in the main thread.  A second thread
writes the time into shared memory, as a pulse, and answers what must not wait for an inference through the socket
``side``.
When the program on the other side ends, so does this process.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from chunkwise.contract import InterfaceValidationError, PolicySpec, connect, robot_spec_from_dict
from chunkwise.heap import keep_freed_memory
from chunkwise.memory import Memory
from chunkwise.policies import BoundPolicy, Recipe
from chunkwise.workers._channel import Channel, Gone
from chunkwise.workers._process import loading
from chunkwise.workers._ring import INFER, MAX_RING_BYTES, Placed, RingReader
from chunkwise.workers._trees import answer_tree, asked_of, error_tree, register_kinds, spec_of, spec_tree

PULSE_S = 0.25
OPTIONAL = ("meet", "warmup", "reset", "session", "infer_many")
"""What a policy may have; the program is told which of it this one has."""


def main(boot: Mapping[str, Any]) -> None:
    """Serve the program that started this process, until it has heard enough.

    Args:
        boot: descriptors and what else `_process.py` says.
    """
    keep_freed_memory()
    work = Channel(socket.socket(fileno=boot["work"]))
    side = Channel(socket.socket(fileno=boot["side"]))
    pulse = Memory.received(boot["pulse"], most=1 << 16)
    server = InferenceServer(work)
    threading.Thread(target=_attend, args=(server, side, pulse), name="chunkwise-pulse", daemon=True).start()
    try:
        server.serve()
    except Gone:
        server.close()


def _attend(server: InferenceServer, side: Channel, pulse: Memory) -> None:
    """Write the pulse, and answer what does not wait; the end of the program is the end of this process."""
    clock = pulse.buffer.cast("q")
    with suppress(Gone):
        while True:
            clock[0] = time.monotonic_ns()
            received = side.receive(PULSE_S)
            if received is not None:
                side.send(server.answered(received[0]))
    if server.closing.wait(1.0):  # the main thread ends by itself
        return
    os.kill(os.getpid(), signal.SIGKILL)  # in the middle of an inference whose answer nobody reads


class InferenceServer:
    """The policy and its conversations.

    Args:
        channel: where calls come from.
    """

    def __init__(self, channel: Channel) -> None:
        self.closing = threading.Event()
        self._channel = channel
        self._policy: Any = None
        self._conversations: dict[int, Any] = {}
        self._making = threading.Lock()
        self._bound: BoundPolicy | None = None
        self._ring: RingReader | None = None
        self._slots = 0
        self._calls: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
            "make": self._make,
            "meet": self._meet,
            "warmup": lambda call: self._optional("warmup", call),
            "reset": lambda call: self._optional("reset", call),
            "leave": self._leave,
            "bind": self._bind,
            "infer": self._infer,
        }

    def serve(self) -> None:
        """Answer calls until one says that it is over.

        Raises:
            Gone: the program has ended.
        """
        while True:
            received = self._channel.receive(None)
            assert received is not None
            call, fd = received
            if fd is not None:
                self._take_ring(fd)
            if "bytes" in call:
                number, conversation, bound = INFER.unpack_from(call["bytes"])
                placed = Placed.of_bytes(memoryview(call["bytes"])[INFER.size :])
                call = {"call": "infer", "id": number, "of": conversation, "bound": bound, "placed": placed}
            if call["call"] == "close":
                self.close()
                return
            self._channel.send(self.answered(call))

    def answered(self, call: dict[str, Any]) -> dict[str, Any]:
        """The answer to a call, whatever becomes of it."""
        try:
            if call.get("left_out"):
                raise InterfaceValidationError(
                    f"{', '.join(call['left_out'])}: only plain values can be given here"
                )
            answer = self._calls[call["call"]](call)
        except BaseException as error:  # noqa: BLE001  sys.exit() in a policy ends no more than its answer
            answer = {"error": error_tree(error)}
        answer["id"] = call["id"]
        if self._ring is not None:
            answer["busy"] = self._ring.busy()
        return answer

    def close(self) -> None:
        """Let the policy go."""
        self.closing.set()
        close = getattr(self._policy, "close", None)
        if close is not None:
            close()

    # Calls ----------------------------------------------------------------------------------------------------

    def _make(self, call: dict[str, Any]) -> dict[str, Any]:
        register_kinds(call["kinds"])
        self._slots = call["slots"]
        _limit_torch(call["threads"])
        loading.set()
        policy = self._policy = Recipe(**call["recipe"]).make()
        loading.clear()
        _limit_torch(call["threads"])
        gc.collect()
        gc.freeze()  # a large model need not be looked through again
        self._conversations[0] = policy
        has = [name for name in OPTIONAL if callable(getattr(policy, name, None))]
        return {"policy": type(policy).__name__, "has": has, "spec": self._spec(policy)}

    def _spec(self, policy: Any) -> dict[str, Any] | None:
        spec = getattr(policy, "spec", None)
        return spec_tree(spec) if isinstance(spec, PolicySpec) else None

    def _conversation(self, number: int) -> Any:
        """The policy as one client has it."""
        with self._making:
            if number not in self._conversations:
                self._conversations[number] = self._policy.session()
            return self._conversations[number]

    def _meet(self, call: dict[str, Any]) -> dict[str, Any]:
        policy = self._conversation(call["conversation"])
        policy.meet(robot_spec_from_dict(call["robot"]))
        return {"spec": self._spec(policy)}

    def _optional(self, name: str, call: dict[str, Any]) -> dict[str, Any]:
        getattr(self._conversation(call["conversation"]), name)()
        return {}

    def _leave(self, call: dict[str, Any]) -> dict[str, Any]:
        policy = self._conversations.pop(call["conversation"], None)
        close = getattr(policy, "close", None)
        if close is not None and policy is not self._policy:
            close()
        return {}

    def _bind(self, call: dict[str, Any]) -> dict[str, Any]:
        spec = spec_of(call["policy"])
        assert spec is not None
        self._bound = BoundPolicy(self._policy, connect(robot_spec_from_dict(call["robot"]), spec))
        return {}

    def _infer(self, call: dict[str, Any]) -> dict[str, Any]:
        assert self._ring is not None
        placed = call["placed"]
        frame, request = asked_of(self._ring.read(placed))
        began_s = time.perf_counter()
        if call["bound"]:
            assert self._bound is not None
            answer = self._bound(frame, request)
        else:
            answer = self._conversation(call["of"]).infer(frame, request)
        took_s = time.perf_counter() - began_s
        self._ring.check(placed)  # nobody wrote to it while the policy looked
        return {"answer": answer_tree(answer), "took_s": took_s}

    def _take_ring(self, fd: int) -> None:
        ring, self._ring = self._ring, None
        if ring is not None:
            ring.close()
        memory = Memory.received(fd, most=MAX_RING_BYTES, writable=False)
        self._ring = RingReader(memory, self._slots)


def _limit_torch(threads: int) -> None:
    """The variables of the environment limit the pools of numpy and OpenMP; torch has one of its own."""
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(threads)
