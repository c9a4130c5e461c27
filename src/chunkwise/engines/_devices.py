"""Words for devices, the same ones for every runtime."""

from __future__ import annotations

from collections.abc import Sequence

from chunkwise.contract.errors import InterfaceValidationError, nearest

WORDS = ("auto", "cpu", "cuda", "mps")
"""Besides ``cuda:N``, the card of that number.  ``metal`` is another word for ``mps``."""
FASTEST_FIRST = ("cuda", "mps", "cpu")


class DeviceError(InterfaceValidationError):
    """The device is not there, or is none that the runtime can use; the message names those that are."""


def choose(device: str, there: Sequence[str], runtime: str) -> str:
    """The device that a word means.

    Args:
        device: one of :data:`WORDS`, or ``cuda:N``; case does not matter.
        there: what the runtime can use here: ``cpu``, ``mps``, ``cuda:0``, ``cuda:1`` ...
        runtime: for the message.

    Returns:
        One of `there`.

    Raises:
        DeviceError: none of `there` is meant.

    >>> choose("auto", ["cpu", "cuda:0"], "torch")
    'cuda:0'
    >>> choose("cuda", ["cpu"], "torch")
    Traceback (most recent call last):
    ...
    chunkwise.engines._devices.DeviceError: torch has no device 'cuda' here; there are: cpu, auto
    """
    word = device.strip().lower()
    word = "mps" if word == "metal" else word
    kind, colon, number = word.partition(":")
    if kind not in WORDS or (colon and not (kind == "cuda" and number.isdecimal())):
        raise DeviceError(f"{device!r} is no device{nearest(word, WORDS)}; write {', '.join(WORDS)} or cuda:N")
    wanted = FASTEST_FIRST if word == "auto" else (word,)
    for candidate in wanted:
        for one in there:
            if candidate in (one, one.partition(":")[0]):
                return one
    raise DeviceError(f"{runtime} has no device {device!r} here; there are: {', '.join([*there, 'auto'])}")
