"""What is wrong with data that was handed to Chunkwise, said once and naming the field."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InterfaceValidationError(ValueError):
    """A frame, action, chunk or spec does not match the contract; the message names the field."""


class PolicyFailed(InterfaceValidationError):
    """A policy raised, or answered what is no answer; the policy's own exception is the cause."""


class PolicyTimedOut(PolicyFailed):
    """A policy did not answer in time."""


class RobotFailed(InterfaceValidationError):
    """Observing or acting raised; the robot's own exception is the cause."""


class BindingError(InterfaceValidationError):
    """A robot and a policy do not fit together; the message lists every name that is missing."""


def nearest(name: str, known: Iterable[str]) -> str:
    """`" (did you mean 'left_arm'?)"`, or nothing when no known name is close.

    >>> nearest("lefft_arm", ["left_arm", "right_arm"])
    " (did you mean 'left_arm'?)"
    >>> nearest("wheel", ["left_arm"])
    ''
    """
    match = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {match[0]!r}?)" if match else ""
