"""Pickles read without running them: nothing here can call what a peer names.

A pickle is a program for a machine with a stack.  This machine knows the few instructions of protocols 2 to 5 that
plain values need, and a list of names; behind a name stands a function of ours that makes a plain value.  Whatever
else a pickle names or does is refused, by name.  So is a program that is too long or nests too deep.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from chunkwise.contract.errors import InterfaceValidationError
from chunkwise.processing.errors import PickleError

MAX_TEXT: Final = 1 << 20
MAX_NAME: Final = 256
MAX_STACK: Final = 8192
MAX_MARKS: Final = 32
"""Containers that are open at once."""
MAX_MADE: Final = 4
"""Bytes that calls may make, for each byte of the data.  Honest pickles need two at most, for bfloat16 and small
whole numbers double; one that recalls a text and makes bytes of it again and again needs thousands."""
_ROOM: Final = 1 << 16
_FLOAT: Final = struct.Struct(">d")

Make = Callable[..., Any]


@dataclass(slots=True)
class Instance:
    """An object of a class that is known by name only.

    Attributes:
        module, name: of the class.
        fields: what it holds.
    """

    module: str
    name: str
    fields: dict[str, Any] = field(default_factory=dict)

    def build(self, state: Any) -> None:
        """Take what it holds; once.

        Raises:
            PickleError: that is no dict.
        """
        if not isinstance(state, dict) or self.fields:
            raise PickleError(f"pickle: {self.name} must be built once, of a dict")
        self.fields = state


@dataclass(slots=True, frozen=True)
class Known:
    """What may stand behind a name.

    Attributes:
        made: makes a value of arguments; None where it may not be called.
        empty: makes an object without any; None where there is none.
    """

    made: Make | None = None
    empty: Callable[[], Any] | None = None


@dataclass(slots=True, frozen=True)
class Global:
    """A name on the stack."""

    module: str
    name: str
    known: Known


def instance(module: str, name: str) -> Known:
    """A class whose objects are made empty and then built."""
    return Known(empty=lambda: Instance(module, name))


class Machine:
    """Reads pickles that stand one behind the other.

    Args:
        data: of all of them.
        known: ``module name`` -> what stands behind it.
        most: instructions, at most.
        persistent: what a persistent id stands for; None where there must be none.
    """

    def __init__(
        self, data: memoryview, known: Mapping[str, Known], most: int, persistent: Make | None = None
    ) -> None:
        self._data, self._known, self._left, self._persistent = data, known, most, persistent
        self._room = _ROOM + MAX_MADE * len(data)
        self.at = 0
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}

    def load(self) -> Any:
        """The next value.

        Raises:
            PickleError: it is none, or one that is not allowed.
        """
        self._stack, self._marks, self._memo = [], [], {}
        while True:
            self._left -= 1
            if self._left < 0 or len(self._stack) > MAX_STACK or len(self._marks) > MAX_MARKS:
                raise PickleError("pickle: too long, or nested too deep")
            code = self._byte()
            if code == _STOP:
                value = self._pop()
                if self._stack or self._marks:
                    raise PickleError("pickle: something is left over")
                return value
            step = _STEPS.get(code)
            if step is None:
                raise PickleError(f"pickle: instruction {code:#04x} is not allowed")
            step(self)

    # What stands in the program -------------------------------------------------------------------------------

    def _take(self, size: int) -> memoryview:
        if size > len(self._data) - self.at:
            raise PickleError("pickle: it is cut off")
        self.at += size
        return self._data[self.at - size : self.at]

    def _byte(self) -> int:
        at = self.at
        if at >= len(self._data):
            raise PickleError("pickle: it is cut off")
        self.at = at + 1
        return self._data[at]

    def _number(self, size: int, *, signed: bool = False) -> int:
        return int.from_bytes(self._take(size), "little", signed=signed)

    def _text(self, size: int) -> str:
        if size > MAX_TEXT:
            raise PickleError(f"pickle: a text of more than {MAX_TEXT} bytes")
        try:
            return str(self._take(size), "utf-8")
        except UnicodeDecodeError as error:
            raise PickleError("pickle: a text is not UTF-8") from error

    def _line(self) -> str:
        end = bytes(self._data[self.at : self.at + MAX_NAME + 1]).find(b"\n")
        if end < 0:
            raise PickleError("pickle: a name is cut off, or too long")
        return self._text(end + 1)[:-1]

    # The stack ------------------------------------------------------------------------------------------------

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _pop(self) -> Any:
        if len(self._stack) <= (self._marks[-1] if self._marks else 0):
            raise PickleError("pickle: a value is missing")
        return self._stack.pop()

    def _several(self) -> list[Any]:
        """Everything since the last mark."""
        if not self._marks:
            raise PickleError("pickle: a mark is missing")
        start = self._marks.pop()
        found = self._stack[start:]
        del self._stack[start:]
        return found

    def _top(self, kind: type) -> Any:
        value = self._pop()
        if type(value) is not kind:
            raise PickleError(f"pickle: a {kind.__name__} is missing")
        self._stack.append(value)
        return value

    # Instructions ---------------------------------------------------------------------------------------------

    def _version(self) -> None:
        number = self._byte()
        if not 2 <= number <= 5:
            raise PickleError(f"pickle: protocol {number}; 2 to 5 are read")

    def _tuple(self, size: int) -> None:
        self._push(tuple([self._pop() for _ in range(size)][::-1]))

    def _append(self, values: Sequence[Any]) -> None:
        self._top(list).extend(values)

    def _set(self, items: Sequence[Any]) -> None:
        made = self._top(dict)
        if len(items) % 2:
            raise PickleError("pickle: a key without its value")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if type(key) is not str:
                raise PickleError(f"pickle: a key must be a text, is {type(key).__name__}")
            made[key] = value

    def _remember(self, index: int) -> None:
        value = self._pop()
        self._memo[index] = value
        self._push(value)

    def _recall(self, index: int) -> None:
        if index not in self._memo:
            raise PickleError("pickle: something is recalled that was not remembered")
        self._push(self._memo[index])

    def _global(self, module: Any, name: Any) -> None:
        texts = isinstance(module, str) and isinstance(name, str)
        known = self._known.get(f"{module} {name}") if texts else None
        if known is None:
            what = f"{module[:MAX_NAME]}.{name[:MAX_NAME]}" if texts else "what is named by no text"
            raise PickleError(f"pickle: {what!r} is not allowed")
        self._push(Global(module, name, known))

    def _stack_global(self) -> None:
        name, module = self._pop(), self._pop()
        self._global(module, name)

    def _reduce(self) -> None:
        arguments, named = self._pop(), self._pop()
        if not isinstance(named, Global) or named.known.made is None or type(arguments) is not tuple:
            raise PickleError(f"pickle: {_said(named)} cannot be called")
        try:
            made = named.known.made(*arguments)
        except (TypeError, ValueError, OverflowError) as error:
            if isinstance(error, InterfaceValidationError):
                raise
            raise PickleError(f"pickle: {_said(named)} is called with what it does not take") from error
        self._room -= getattr(made, "nbytes", 0)
        if self._room < 0:
            raise PickleError("pickle: it makes more of its data than they are")
        self._push(made)

    def _new(self) -> None:
        arguments, named = self._pop(), self._pop()
        if not isinstance(named, Global) or named.known.empty is None or type(arguments) is not tuple or arguments:
            raise PickleError(f"pickle: {_said(named)} cannot be made")
        self._push(named.known.empty())

    def _build(self) -> None:
        state = self._pop()
        made = self._pop()
        build = None if isinstance(made, Global) else getattr(made, "build", None)
        if build is None:
            raise PickleError(f"pickle: {type(made).__name__} cannot be built")
        try:
            build(state)
        except (TypeError, ValueError, OverflowError) as error:
            if isinstance(error, InterfaceValidationError):
                raise
            raise PickleError(f"pickle: {type(made).__name__} is built of what it does not take") from error
        self._push(made)

    def _persistent_id(self) -> None:
        if self._persistent is None:
            raise PickleError("pickle: persistent ids are not allowed")
        self._push(self._persistent(self._pop()))

    def _long(self) -> None:
        size = self._byte()
        if size > 16:
            raise PickleError("pickle: a whole number of more than 128 bits")
        self._push(self._number(size, signed=True))


def _said(value: Any) -> str:
    return f"{value.module}.{value.name}" if isinstance(value, Global) else type(value).__name__


_STOP: Final = ord(".")
_STEPS: Final[Mapping[int, Callable[[Machine], None]]] = {
    ord(code): step
    for code, step in {
        "\x80": Machine._version,
        "\x95": lambda m: m._take(8) and None,  # how long a frame is: nothing is read ahead here
        "N": lambda m: m._push(None),
        "\x88": lambda m: m._push(True),
        "\x89": lambda m: m._push(False),
        "J": lambda m: m._push(m._number(4, signed=True)),
        "K": lambda m: m._push(m._byte()),
        "M": lambda m: m._push(m._number(2)),
        "\x8a": Machine._long,
        "G": lambda m: m._push(_FLOAT.unpack(m._take(8))[0]),
        "\x8c": lambda m: m._push(m._text(m._byte())),
        "X": lambda m: m._push(m._text(m._number(4))),
        "\x8d": lambda m: m._push(m._text(m._number(8))),
        "C": lambda m: m._push(m._take(m._byte())),
        "B": lambda m: m._push(m._take(m._number(4))),
        "\x8e": lambda m: m._push(m._take(m._number(8))),
        "\x96": lambda m: m._push(m._take(m._number(8))),
        ")": lambda m: m._push(()),
        "\x85": lambda m: m._tuple(1),
        "\x86": lambda m: m._tuple(2),
        "\x87": lambda m: m._tuple(3),
        "t": lambda m: m._push(tuple(m._several())),
        "]": lambda m: m._push([]),
        "a": lambda m: m._append([m._pop()]),
        "e": lambda m: m._append(m._several()),
        "}": lambda m: m._push({}),
        "s": lambda m: m._set([m._pop(), m._pop()][::-1]),
        "u": lambda m: m._set(m._several()),
        "(": lambda m: m._marks.append(len(m._stack)),
        "\x94": lambda m: m._remember(len(m._memo)),
        "q": lambda m: m._remember(m._byte()),
        "r": lambda m: m._remember(m._number(4)),
        "h": lambda m: m._recall(m._byte()),
        "j": lambda m: m._recall(m._number(4)),
        "c": lambda m: m._global(m._line(), m._line()),
        "\x93": Machine._stack_global,
        "R": Machine._reduce,
        "\x81": Machine._new,
        "b": Machine._build,
        "Q": Machine._persistent_id,
    }.items()
}
