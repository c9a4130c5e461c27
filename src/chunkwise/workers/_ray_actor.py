"""The policy in an actor of a Ray cluster: the calls of an inference process, answered on whatever node it is."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, cast

import numpy as np

from chunkwise import plugins
from chunkwise.contract import ChunkRequest, Frame
from chunkwise.contract.packing import Packed
from chunkwise.workers._channel import Channel
from chunkwise.workers._child import InferenceServer
from chunkwise.workers._trees import answer_tree, asked_of

GROUPS = {"aside": 1, "life": 1}
"""Threads of the actor beside the one that infers: what must not wait for an inference, and `lives`."""


class PolicyActor(InferenceServer):
    """Makes the policy on its node, and answers one call after another.

    Answers are packed trees, so that nothing of the policy's but plain values and arrays leaves its process.

    Args:
        folder: of the program: the actor works there too, where its node has it.
        path: of the program's modules; what is there on this node is looked through last.
    """

    def __init__(self, folder: str, path: list[str]) -> None:
        super().__init__(cast(Channel, None))  # Ray brings the calls
        with suppress(OSError):
            os.chdir(folder)
        sys.path += [place for place in path if place not in sys.path and os.path.exists(place)]

    def node(self) -> str:
        """Where it is, as Ray has it."""
        return str(plugins.require("ray", extra="ray").get_runtime_context().get_node_id())

    def lives(self) -> None:
        """Never returns: whoever waits for it learns of the actor's end."""
        threading.Event().wait()

    def ask(self, call: dict[str, Any]) -> bytes:
        """The answer to a call of `_child.py`, an error as one."""
        return b"".join(Packed(self.answered(call)).buffers)

    def infer(self, call: dict[str, Any]) -> bytes:
        """The answer to an inference that finds its frame in the object store."""
        return self.ask({"call": "infer", "id": 0, **call})

    def _infer(self, call: dict[str, Any]) -> dict[str, Any]:
        frame, request = seen(call["asked"])
        began_s = time.perf_counter()
        answer = self._conversation(call["of"]).infer(frame, request)
        return {"answer": answer_tree(answer), "took_s": time.perf_counter() - began_s}


def seen(tree: Mapping[str, Any]) -> tuple[Frame, ChunkRequest]:
    """A frame and a request: pictures where Ray has them, read-only; the rest is small, and copies."""
    frame = tree["frame"]
    images = frame["images"]
    rest = owned({**tree, "frame": {**frame, "images": {}}})
    return asked_of({**rest, "frame": {**rest["frame"], "images": images}})


def owned(value: Any) -> Any:
    """A tree with its arrays copied."""
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, Mapping):
        return {key: owned(item) for key, item in value.items()}
    return [owned(item) for item in value] if isinstance(value, (list, tuple)) else value
