"""The stand-in for a policy in another process: a policy like any other to whoever holds it."""

from __future__ import annotations

import itertools
from typing import Any

from chunkwise.contract import ChunkRequest, Frame, PolicySpec, RobotSpec
from chunkwise.workers._host import Host
from chunkwise.workers._trees import answer_of


class Hosted:
    """Asks the policy that a host's process has.

    It has ``meet``, ``warmup``, ``reset`` and ``session`` where the policy has them.

    Args:
        host: has the process.
        conversation: this client's number; 0 is the policy itself.
    """

    elsewhere = True

    def __init__(self, host: Host, conversation: int = 0) -> None:
        self.host, self._conversation = host, conversation
        self._spec = host.spec
        for name, method in (("meet", self._meet), ("reset", self._reset), ("session", self._session)):
            if name in host.has:
                setattr(self, name, method)
        if "warmup" in host.has and not conversation:
            self.warmup = host.warm_up

    @property
    def spec(self) -> PolicySpec | None:
        """The policy's; None for one without a spec."""
        return self._spec

    def infer(self, frame: Frame, request: ChunkRequest) -> Any:
        """The policy's answer.

        Raises:
            InterfaceValidationError: the frame cannot be given to another process.
            PolicyTimedOut: there was no answer in time; the process is replaced.
            WorkerFailed: there is no process, or it has ended, or the policy raised.
        """
        message = self.host.infer(frame, request, self._conversation)
        answer = answer_of(message["answer"])
        meta = getattr(answer, "meta", None)
        if meta is not None and self.host.returned():
            meta["reconnected"] = True
        return answer

    def close(self) -> None:
        """End the process; of a conversation, that conversation."""
        if self._conversation:
            self.host.leave(self._conversation)
        else:
            self.host.close()

    def _meet(self, robot: RobotSpec) -> None:
        self._spec = self.host.meet(robot, self._conversation)

    def _reset(self) -> None:
        self.host.reset(self._conversation)

    def _session(self) -> Hosted:
        return Hosted(self.host, next(_numbers))


_numbers = itertools.count(1)
