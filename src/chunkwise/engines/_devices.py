"""Words for devices, the same ones for every runtime."""

from __future__ import annotations

from collections.abc import Sequence

from chunkwise.contract.errors import InterfaceValidationError, nearest

WORDS = ("auto", "cpu", "cuda", "mps")
"""Besides ``cuda:N``, the card of that number.  ``metal`` is another word for ``mps``."""
FASTEST_FIRST = ("cuda", "mps", "cpu")
COMPILED = ("ascend_om", "ascend_om_3403", "rknn")
"""Devices that are engines of the same names: they run what was compiled for them, and nothing else does."""


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
    if compiled_engine(device):
        raise DeviceError(
            f"{runtime} cannot use {device!r}, which runs what was compiled for it, and is its own engine"
        )
    if kind not in WORDS or (colon and not (kind == "cuda" and number.isdecimal())):
        raise DeviceError(f"{device!r} is no device{nearest(word, WORDS)}; write {', '.join(WORDS)} or cuda:N")
    wanted = FASTEST_FIRST if word == "auto" else (word,)
    for candidate in wanted:
        for one in there:
            if candidate in (one, one.partition(":")[0]):
                return one
    raise DeviceError(f"{runtime} has no device {device!r} here; there are: {', '.join([*there, 'auto'])}")


def compiled_engine(device: str) -> str:
    """The engine of :data:`COMPILED` that a word for a device means; "" where it means none.

    >>> compiled_engine("Ascend-OM:1")
    'ascend_om'
    """
    kind = device.strip().lower().replace("-", "_").partition(":")[0]
    return kind if kind in COMPILED else ""


def choose_compiled(device: str, engine: str, parts: Sequence[str] = ()) -> str:
    """The device of a compiled engine that a word means.

    Args:
        device: the engine's name, that and ``:`` and one of `parts`, or ``auto``.
        engine: one of :data:`COMPILED`.
        parts: what may follow its name: numbers of cards, or of cores.

    Raises:
        DeviceError: it means none of these.

    >>> choose_compiled("RKNN:0_1", "rknn", ["0", "0_1"])
    'rknn:0_1'
    """
    word = device.strip().lower().replace("-", "_")
    kind, colon, part = word.partition(":")
    if word == "auto":
        return engine
    if kind != engine or (colon and part not in parts):
        numbered = f", {engine}:{parts[0]} to {engine}:{parts[-1]}" if parts else ""
        raise DeviceError(f"{engine} has no device {device!r}; there are: {engine}{numbered}, auto")
    return word
