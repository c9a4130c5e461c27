"""The policy port: what answers an observation with an action chunk.  Every other file here is one policy.

A wrapper (delayed, recorded, remote) is a policy too.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from chunkwise.contract import Action, ActionChunk, Binding, ChunkRequest, Frame
from chunkwise.contract.values import Array
from chunkwise.policies._pictures import as_ruled
from chunkwise.policies._recipe import Recipe as Recipe
from chunkwise.policies._recipe import find as find_policy

__all__ = ["Answer", "BoundPolicy", "Policy", "Recipe", "find_policy", "shown"]

Answer = ActionChunk | Action | list[Action] | Array
"""What `infer` may return: a chunk, rows ``(action_horizon, action_dim)``, one Action, or a list of them."""


@runtime_checkable
class Policy(Protocol):
    """A policy.

    Only `infer` is required.  Optional, found by name: ``spec`` (a PolicySpec; a policy without one gets it
    from its first answer), ``warmup()`` (called once before the loop starts), ``reset()`` (before every
    episode) and ``close()`` (twice is fine).

    ``meet(robot)`` is told the robot's spec before its own spec is read, for a policy that has to pass it on.

    For a policy that several clients share, also by name: ``session()`` gives another conversation with the same
    weights, itself where calls leave nothing behind; it is quick, and may be called while another thread infers.
    (A policy with a ``reset`` and no ``session`` is taken to remember things, and serves one client at a time.)
    ``infer_many(calls)`` answers up to ``max_batch`` pairs of frame and request in one go, in their order, an
    exception standing for one that failed.  Those of one call have the same ``kind_of(frame)``.

    A server makes one call after another, from one thread.  A policy that says ``calls_at_once`` gets as many at
    the same time, from several; the number is looked up before every call.  ``calls_ahead`` further ones come
    where they have ``max_batch`` requests.  A client's next one waits for its last one, unless that was
    given up and the client has no ``session()`` of its own.
    """

    def infer(self, frame: Frame, request: ChunkRequest) -> Answer:
        """The actions from `request.request_step` on, in the policy's own column order.

        States are in the joint order and pictures by the image rules of its spec; arrays may be read-only.
        Derive them from the frame and the request alone: calls may be skipped, repeated or made to warm up.
        """
        ...


class BoundPolicy:
    """A policy and its binding: what a worker runs.

    Args:
        policy: the policy.
        binding: of the policy to a robot.
    """

    def __init__(self, policy: Policy, binding: Binding) -> None:
        self.policy, self.binding = policy, binding

    def __call__(self, frame: Frame, request: ChunkRequest) -> ActionChunk:
        """The policy's answer as a chunk in the robot's column order.

        Raises:
            InterfaceValidationError: a picture cannot be made what the policy reads, or the answer does not match
                the policy's spec.
            Exception: whatever the policy raises.
        """
        answer = self.policy.infer(shown(self.binding, frame), self.binding.request(request))
        return self.binding.chunk(answer)


def shown(binding: Binding, frame: Frame) -> Frame:
    """A robot's frame as the policy reads it: joints in its order, pictures by its image rules.

    Raises:
        ProcessingError: a picture is none, or of another size where the rule is ``exact``.
    """
    return as_ruled(binding.frame(frame), binding.policy.images)
