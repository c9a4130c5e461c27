"""A policy in a replica on a Ray cluster, and the thread that makes it, asks it and lets it go."""

from __future__ import annotations

import asyncio
import faulthandler
import gc
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from chunkwise.contract import ChunkRequest, Frame
from chunkwise.contract.packing import Packed
from chunkwise.workers._ray_actor import PolicyActor, seen
from chunkwise.workers._trees import answer_tree, error_tree


class Closed(RuntimeError):
    """The model made room for another one."""


class Model(PolicyActor):
    """Makes the policy, and answers requests that come together.

    Args:
        boot: of a call ``make``.
        folder, path: as of :class:`PolicyActor`.

    Raises:
        RuntimeError: the policy cannot be made; the text is its traceback.
    """

    def __init__(self, boot: Mapping[str, Any], folder: str, path: list[str]) -> None:
        super().__init__(folder, path)
        self._made = self.answered({"call": "make", "id": 0, "slots": 0, **boot})
        if "error" in self._made:
            error = self._made["error"]
            raise RuntimeError(error["trace"] or f"{error['kind']}: {error['text']}")
        warmup = getattr(self._policy, "warmup", None)
        if warmup is not None:
            warmup()

    def said(self) -> dict[str, Any]:
        """Its spec, whether it remembers its client from call to call, and how many requests a call may have."""
        session = getattr(self._policy, "session", None)
        remembers = hasattr(self._policy, "reset") if session is None else session() is not self._policy
        most = getattr(self._policy, "max_batch", 1) if hasattr(self._policy, "infer_many") else 1
        return {"spec": self._made["spec"], "remembers": remembers, "max_batch": most}

    def answers(self, trees: Sequence[Mapping[str, Any]]) -> list[bytes]:
        """The answers to some requests, an error as one, as packed trees."""
        calls = [seen(tree) for tree in trees]
        many = getattr(self._policy, "infer_many", None)
        if many is None or len(calls) == 1:
            found = [self._attempt(*call) for call in calls]
        else:
            found = _attempt_many(many, calls)
        return [_packed(each) for each in found]

    def _attempt(self, frame: Frame, request: ChunkRequest) -> Any:
        try:
            return self._policy.infer(frame, request)
        except BaseException as error:  # noqa: BLE001  sys.exit() in a policy ends no more than its answer
            return error


class Hosted:
    """A model in a thread of its own, as it may need to be where it was made.

    Args:
        turn: held while a policy of the process computes: there is one accelerator.
        make_s: a model that takes longer to make ends the process.
        answer_s: one that takes longer to answer does.
        on_closed: told when it begins to end.
    """

    def __init__(
        self, turn: threading.Lock, make_s: float, answer_s: float, on_closed: Callable[[], object]
    ) -> None:
        self._turn, self._make_s, self._answer_s, self._on_closed = turn, make_s, answer_s, on_closed
        self._thread: ThreadPoolExecutor | None = ThreadPoolExecutor(1, "chunkwise-model")
        self._model: Any = None

    async def make(self, make: Callable[[], Any]) -> None:
        """Make the model.

        Raises:
            Exception: whatever `make` raises.
        """
        self._model = await self._run(self._timed, make)

    async def said(self) -> dict[str, Any]:
        """What :meth:`Model.said` says.

        Raises:
            Closed: it has made room.
        """
        said: dict[str, Any] = await self._run(lambda: self._model.said())
        return said

    async def answers(self, trees: Sequence[Mapping[str, Any]]) -> list[bytes]:
        """What :meth:`Model.answers` answers, when it is its turn.

        Raises:
            Closed: it has made room.
        """
        found: list[bytes] = await self._run(self._in_turn, trees)
        return found

    def close(self) -> None:
        """Let the model go, once it has answered what it was asked.  Twice is fine."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        self._on_closed()
        with suppress(Exception):  # what a policy raises at its end
            thread.submit(self._let_go).result()
        thread.shutdown(wait=False)

    def __del__(self) -> None:  # what Ray Serve calls to put it out
        self.close()

    async def _run(self, work: Callable[..., Any], *given: Any) -> Any:
        thread = self._thread
        try:
            if thread is None:
                raise Closed
            running = thread.submit(work, *given)
        except RuntimeError as error:  # it was shut down meanwhile
            raise Closed("the model made room for another one") from error
        return await asyncio.wrap_future(running)

    # In the thread --------------------------------------------------------------------------------------------

    def _timed(self, make: Callable[[], Any]) -> Any:
        late = threading.Timer(self._make_s, _end_process, [f"a model is not made within {self._make_s:g} s\n"])
        late.daemon = True
        late.start()
        try:
            return make()
        finally:
            late.cancel()

    def _in_turn(self, trees: Sequence[Mapping[str, Any]]) -> list[bytes]:
        with self._turn:
            faulthandler.dump_traceback_later(self._answer_s, exit=True, file=2)
            try:
                found: list[bytes] = self._model.answers(trees)
                return found
            finally:
                faulthandler.cancel_dump_traceback_later()

    def _let_go(self) -> None:
        model, self._model = self._model, None
        try:
            if model is not None:
                model.close()
        finally:
            del model
            gc.unfreeze()  # what was made is else looked through no more, and stays
            gc.collect()
            gc.freeze()


def _end_process(why: str) -> None:
    os.write(2, why.encode())
    os._exit(1)


def _attempt_many(many: Any, calls: list[tuple[Frame, ChunkRequest]]) -> list[Any]:
    try:
        found = list(many(calls))
    except BaseException as error:  # noqa: BLE001  as above
        return [error] * len(calls)
    if len(found) != len(calls):
        return [ValueError(f"infer_many gave {len(found)} answers to {len(calls)} calls")] * len(calls)
    return found


def _packed(answer: Any) -> bytes:
    try:
        tree = {"answer": answer_tree(answer)} if not isinstance(answer, BaseException) else None
    except Exception as error:  # noqa: BLE001  it is no answer
        answer, tree = error, None
    return b"".join(Packed(tree or {"error": error_tree(answer)}).buffers)
