"""MessagePack (https://github.com/msgpack/msgpack/blob/master/spec.md), with bounds on all that a message becomes.

The library `msgpack` reads and writes it.  Lists, maps and texts are bounded while they are read, what they are
together whenever one of them ends; bytes are copied once.  So a message costs its own size, :data:`MAX_VALUES`
values, and the longest text.  Extension types, and keys that are neither texts nor bytes, are refused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from chunkwise import plugins
from chunkwise.wires import Buffer, WireError

MAX_ITEMS: Final = 512
"""Of one list or map."""
MAX_CONTAINERS: Final = 1024
"""Lists and maps."""
MAX_VALUES: Final = 16384
"""In all lists and maps together."""
MAX_TEXT_BYTES: Final = 64 << 10
MAX_DEPTH: Final = 16
"""Lists and maps in one another."""

Made = Callable[[dict[Any, Any]], Any]
Plain = Callable[[Any], Any]


def unpacked(data: Buffer, max_bytes: int, made: Made | None = None) -> Any:
    """The one value in a message: plain values, texts as str, bytes, lists, and maps with keys of str or bytes.

    Args:
        data: the message; nothing of it is kept.
        max_bytes: a longer one is refused.
        made: makes another value of a map.

    Raises:
        WireError: the bytes are no message, hold more than one value, or are beyond the limits.
        MissingExtra: msgpack is not installed.
    """
    if len(data) > max_bytes:
        raise WireError(f"a message of {len(data)} bytes; at most {max_bytes} are taken")
    msgpack = plugins.require("msgpack", extra="openpi")
    count = _Count(made)
    try:
        tree = msgpack.unpackb(
            data,
            raw=False,
            strict_map_key=True,
            object_hook=count.map,
            list_hook=count.list,
            ext_hook=_extension,
            max_str_len=MAX_TEXT_BYTES,
            max_bin_len=len(data),
            max_array_len=MAX_ITEMS,
            max_map_len=MAX_ITEMS,
            max_ext_len=0,
        )
    except WireError:
        raise
    except (msgpack.UnpackException, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise WireError(f"no msgpack that is read here: {type(error).__name__}: {error!s:.200}") from error
    if count.containers > MAX_DEPTH:  # fewer cannot lie deeper
        _check_depth(tree)
    return tree


def packed(value: Any, plain: Plain | None = None) -> bytes:
    """A value as a message, each number and length as short as it can be.

    Args:
        value: None, numbers, texts, bytes and views of bytes, lists, tuples, and dicts of these.
        plain: makes one of these of anything else.

    Raises:
        TypeError, ValueError, OverflowError: it holds what `plain` does not make plain, a whole number of more
            than 64 bits, or something of 4 GiB.
        MissingExtra: msgpack is not installed.
    """
    data: bytes = plugins.require("msgpack", extra="openpi").packb(value, default=plain)
    return data


class _Count:
    """Counts what is made of one message.

    Args:
        made: makes another value of a map; None for the map itself.

    Attributes:
        containers: lists and maps until now.
    """

    __slots__ = ("_made", "_values", "containers")

    def __init__(self, made: Made | None) -> None:
        self._made = made
        self.containers = self._values = 0

    def _more(self, size: int) -> None:
        self.containers += 1
        self._values += size
        if self.containers > MAX_CONTAINERS or self._values > MAX_VALUES:
            raise WireError(f"more than {MAX_CONTAINERS} lists and maps, or {MAX_VALUES} values in them")

    def list(self, found: list[Any]) -> list[Any]:
        self._more(len(found))
        return found

    def map(self, found: dict[Any, Any]) -> Any:
        self._more(len(found))
        return found if self._made is None else self._made(found)


def _check_depth(tree: Any) -> None:
    level = [tree] if isinstance(tree, (dict, list)) else []
    for _ in range(MAX_DEPTH):
        within = [inner for outer in level for inner in (outer.values() if isinstance(outer, dict) else outer)]
        level = [inner for inner in within if isinstance(inner, (dict, list))]
        if not level:
            return
    raise WireError(f"more than {MAX_DEPTH} lists and maps in one another")


def _extension(code: int, data: object) -> Any:
    raise WireError(f"an extension of type {code} is never read")
