"""A network behind two ROS 2 topics: our engine, or IB-Robot's ``pure_inference_node``.

A topic has no other end, so what a connection knows is made here: an engine of ours says at a third topic how it
is, twice a second, and keeps the last word for those who come later; replies are addressed by the request's id.
An original engine says nothing: then the robot's own directory says what is expected, and the network's whole
input travels as the original wants it, float32.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from chunkwise.contract import (
    ActionChunk,
    ChunkRequest,
    Frame,
    InterfaceValidationError,
    PolicyFailed,
    PolicyOutputSpec,
    PolicySpec,
    PolicyTimedOut,
)
from chunkwise.policies._checkpoint import Checkpoint
from chunkwise.transports._ros2 import Node
from chunkwise.transports._ros2.inference_topics import QOS, STATUS_QOS, InferenceTopics
from chunkwise.wires import Offer, Problem, Readiness, Trouble, WireError
from chunkwise.wires._inference_topics import (
    ACTION,
    Operation,
    Reply,
    Request,
    offer_of,
    reply_id,
    reply_of,
    request_fields,
)

SILENT_S: Final = 2.0
"""An engine that was not heard for so long has gone."""
GREET_S: Final = 0.25
"""How often a robot greets until it is answered."""
ORIGINAL: Final = "ib_robot"
"""The engine's name where an original one answers, which does not say what it is."""


class TopicNetwork:
    """The other side of ``chunkwise engine --ros2``, as :class:`policies._apart.FarEngine` wants a policy.

    Args:
        topics: where.
        checkpoint: the robot's own copy of the directory, without the weights.
        digest: of the statistics there.
        timeout_s: an answer that takes longer is given up, the writing of the request included.
        start_timeout_s: an engine that is not ready after so long is given up.
        node: a node of the program's own.
        clock: monotonic, seconds.

    Attributes:
        original: whether an original engine answers, which takes float32 batches and knows no deadline.
        foreign: replies that came and were of no request of this robot.
        late: replies to requests that were given up.

    Raises:
        PolicyFailed: nobody is there, or whose network is not this policy's.
        Ros2Error, MissingExtra, OSError: the graph cannot be joined.
    """

    def __init__(
        self,
        topics: InferenceTopics,
        checkpoint: Checkpoint,
        digest: str,
        *,
        timeout_s: float = 5.0,
        start_timeout_s: float = 120.0,
        node: Node | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._topics, self._checkpoint, self._digest = topics, checkpoint, digest
        self._timeout_s, self._start_timeout_s, self._clock = timeout_s, start_timeout_s, clock
        self._session = secrets.token_hex(8)
        self._generation = self._number = 0
        self._turn, self._changed = threading.Lock(), threading.Condition()
        self._awaited = self._asked = ""
        self._answer: Reply | None = None
        self._offer: Offer | None = None
        self._heard_s, self._strange = -1e9, ""
        self._news = self._closed = False
        self.original = topics.engine == "original"
        self.foreign = self.late = 0
        self._node = node or topics.join("chunkwise_robot")
        try:
            kind = topics.type_name
            self._node.subscribe(topics.status, kind, self._on_status, qos=STATUS_QOS, on_fault=_nothing)
            self._node.subscribe(topics.output, kind, self._on_reply, qos=QOS, on_fault=_nothing)
            self._sender = self._node.publisher(topics.input, kind, qos=QOS)
            self._meet()
        except BaseException:
            self.close()
            raise
        self._news = False

    @property
    def spec(self) -> PolicySpec:
        """The network's, as the engine says it, or as an original engine ought to have it."""
        offer = self._offer
        if not self.original and offer is not None and offer.policy is not None:
            return offer.policy
        checkpoint = self._checkpoint
        said: dict[str, Any] = {
            "policy_type": checkpoint.policy_type,
            "backend_type": ORIGINAL,
            "inputs": list(checkpoint.inputs),
            "pictures": [],
        }
        return PolicySpec(
            f"{checkpoint.policy_type} network",
            [],
            [],
            outputs=[PolicyOutputSpec(ACTION, "joint_position", checkpoint.action_dim)],
            meta={"network": said},
            normalisation=self._digest,
        )

    def infer(self, frame: Frame, request: ChunkRequest) -> ActionChunk:
        """The network's rows, normalised.

        Args:
            frame: the network's tensors and pictures, see `policies/_apart.py`; for an original engine all of them
                as the network takes them.
            request: of which nothing travels: the network knows no plan but in its tensors.

        Raises:
            PolicyTimedOut: there was no answer in time.
            PolicyFailed: the engine says why it has none, or has gone.
            InterfaceValidationError: a tensor that the message cannot hold.
        """
        with self._turn:
            until_s = self._clock() + self._timeout_s
            engine = self._require_there()
            reply = self._ask("infer", until_s, engine, {**frame.state, **frame.images})
        if reply is None:
            who = ", and who listens there says nothing of itself" if self.original and self._offer is None else ""
            raise PolicyTimedOut(f"{self._where}: no answer within {self._timeout_s:g} s{who}")
        if reply.problem is not None:
            kind = PolicyTimedOut if reply.problem.kind is Trouble.DEADLINE else PolicyFailed
            raise kind(f"{self._where}: {reply.problem.kind}: {reply.problem.text}")
        if reply.rows is None:
            raise PolicyFailed(f"{self._where}: a reply without rows")
        chunk = ActionChunk(reply.rows.astype(np.float64), meta={"server_s": reply.server_s})
        if self._news:
            self._news = False
            chunk.meta["reconnected"] = True
        return chunk

    def reset(self) -> None:
        """An episode ends: what it asked is given up, here and there."""
        with self._changed:  # what is under way is not waited for: it ends now
            self._generation += 1
            generation = self._generation
            self._changed.notify_all()
        with suppress(InterfaceValidationError, OSError):  # the next request says it again
            self._send(Request("", {}, self._session, generation, operation="reset"))

    def close(self) -> None:
        """Leave the graph.  Twice is fine."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._node.close()

    # One request ----------------------------------------------------------------------------------------------

    def _ask(
        self,
        operation: Operation,
        until_s: float,
        engine: str,
        batch: Mapping[str, NDArray[Any]] | None = None,
    ) -> Reply | None:
        """The reply to a request; None where there is none in time.

        Args:
            operation: what is asked.
            until_s: when the answer is worth nothing.
            engine: who is asked; empty for an original one.
            batch: of an ``infer``.

        Raises:
            PolicyFailed: there will be none.
        """
        id, generation = self._await(engine)
        left_s = max(until_s - self._clock(), 0.0)
        try:
            self._send(Request(id, batch or {}, self._session, generation, left_s, operation, engine=engine))
        except TimeoutError as error:
            raise PolicyTimedOut(f"{self._where}: {error}") from error
        except ConnectionError as error:
            raise PolicyFailed(f"{self._where}: {error}") from error
        with self._changed:
            self._wait(lambda: self._answer is not None or self._generation != generation, until_s)
            reply, self._awaited = self._answer, ""
            over = self._generation != generation
            gone = "" if reply is not None else self._gone(engine)
        if over:
            raise PolicyFailed(f"{self._where}: the episode that asked is over")
        if reply is not None:
            return reply
        if operation == "infer" and not self.original:
            with suppress(InterfaceValidationError, OSError):
                cancel = Request("", {}, self._session, generation, operation="cancel", target=id, engine=engine)
                self._send(cancel)
        if gone:
            self._news = True
            raise PolicyFailed(f"{self._where}: {gone}")
        return None

    def _await(self, engine: str) -> tuple[str, int]:
        """The id of a request that is waited for from now on, and its generation."""
        with self._changed:
            self._number += 1
            self._awaited = f"{self._session}.{self._generation}.{self._number}"
            self._asked, self._answer = engine, None
            return self._awaited, self._generation

    def _send(self, request: Request) -> None:
        if self.original and request.operation != "infer":
            return  # it would take it for a request
        self._sender.publish(request_fields(request, packed=not self.original))

    def _on_reply(self, message: Any, time_ns: int) -> None:
        """In the node's thread."""
        id = reply_id(message)
        with self._changed:
            if not id or id != self._awaited:
                mine = id.startswith(f"{self._session}.")
                self.late, self.foreign = self.late + mine, self.foreign + (not mine)
                return
            asked = self._asked
        try:
            reply = reply_of(message)
        except WireError as error:
            reply = Reply(id, problem=Problem(Trouble.MALFORMED, str(error)), engine=asked)
        with self._changed:
            if id != self._awaited:
                return
            if asked and reply.engine != asked:  # which may have another policy
                self.foreign += 1
                return
            self._answer = reply
            self._changed.notify_all()

    # Who is there ---------------------------------------------------------------------------------------------

    def _on_status(self, message: Any, time_ns: int) -> None:
        """In the node's thread."""
        try:
            offer = offer_of(message)
        except WireError as error:
            self._strange = str(error)
            return
        with self._changed:
            now_s, known = self._clock(), self._offer
            another = known is not None and known.session != offer.session
            if another and now_s - self._heard_s < SILENT_S and known is not None and _lives(known):
                return  # two engines at the same topics: the one that was there first
            self._offer, self._heard_s = offer, now_s
            self._news = self._news or another
            self._changed.notify_all()

    def _meet(self) -> None:
        """Wait for an engine that is ready, and see that it answers.

        Raises:
            PolicyFailed: there is none, or its network is another policy's.
        """
        until_s = self._clock() + self._start_timeout_s
        while not self.original:
            with self._changed:
                if self._wait(lambda: self._offer is not None and not self._loads(), min(until_s, self._soon())):
                    break
            if self._clock() >= until_s:
                raise PolicyFailed(f"{self._where}: {self._absent()}")
            if self._offer is None and self._topics.engine == "auto" and self._sender.listeners():
                with self._changed:  # an engine of ours would have been heard by then
                    self._wait(lambda: self._offer is not None, min(until_s, self._clock() + SILENT_S))
                self.original = self._offer is None and not self._strange
        if self.original:
            while not self._sender.listeners():
                with self._changed:
                    self._wait(lambda: False, min(until_s, self._soon()))
                if self._clock() >= until_s:
                    raise PolicyFailed(f"{self._where}: {self._absent()}")
            return
        while self._ask("hello", min(until_s, self._soon()), self._require_there()) is None:
            if self._clock() >= until_s:  # until then, its side may not have found us yet
                raise PolicyFailed(f"{self._where}: an engine is there, and does not answer")

    def _require_there(self) -> str:
        """Who is to be asked; empty for an original engine.

        Raises:
            PolicyFailed: no answer can be expected, or none that may be taken.
        """
        if self._closed:
            raise PolicyFailed(f"{self._where}: closed")
        with self._changed:
            gone = self._gone()
            offer = self._offer
            heard = self._clock() - self._heard_s <= SILENT_S
        if gone:
            self._news = True
            raise PolicyFailed(f"{self._where}: {gone}")
        if offer is None or (self.original and not heard):
            return ""
        if offer.readiness is not Readiness.READY:
            raise PolicyFailed(f"{self._where}: {offer.readiness}: {offer.detail or 'the engine is not ready'}")
        theirs = "" if offer.policy is None else offer.policy.normalisation
        if theirs != self._digest:
            raise PolicyFailed(
                f"{self._where}: the network there was trained behind other statistics ({theirs or 'none'}) than "
                f"{self._checkpoint.folder} has ({self._digest or 'none'}): both sides need the same directory"
            )
        return offer.session

    def _gone(self, engine: str = "") -> str:
        """Why no answer will come, of an engine where one was asked; empty where one may."""
        if self._closed:
            return "closed"
        if engine and self._offer is not None and self._offer.session != engine:
            return "another engine took its place"
        if self.original:
            return "" if self._sender.listeners() else self._absent()
        silent_s = self._clock() - self._heard_s
        return f"the engine was not heard for {silent_s:.1f} s" if silent_s > SILENT_S else ""

    def _loads(self) -> bool:
        return self._offer is not None and self._offer.readiness is Readiness.LOADING

    def _absent(self) -> str:
        offer = self._offer
        if offer is not None:
            return f"the engine is {offer.readiness}: {offer.detail}"
        if self._strange:
            return f"an engine is there, and what it says is not understood: {self._strange}"
        return (
            f"nobody listens there; start `chunkwise engine --policy DIR --ros2` with the same topics and domain "
            f"({self._node.silence(self._topics.status)})"
        )

    def _soon(self) -> float:
        return self._clock() + GREET_S

    def _wait(self, true: Callable[[], bool], until_s: float) -> bool:
        """Wait for something that another thread tells, or for the engine to go; the condition is held."""
        while not true():
            left_s = until_s - self._clock()
            if left_s <= 0 or self._closed or (self._awaited and self._gone(self._asked)):
                return False
            self._changed.wait(min(left_s, GREET_S))
        return True

    @property
    def _where(self) -> str:
        return f"ros2:{self._topics.input}"


def _lives(offer: Offer) -> bool:
    return offer.readiness in (Readiness.READY, Readiness.LOADING, Readiness.STALLED)


def _nothing(fault: Exception) -> None:
    """What is no message is nobody's reply."""
