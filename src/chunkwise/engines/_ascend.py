"""Ascend's ACL: models in the memory of an NPU.

``acl`` is Huawei's own Python binding (pyACL), which comes with CANN and with nothing else.  Its functions answer
a number, or a value and a number, which is 0 where all went well; pointers and handles are whole numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chunkwise.engines._compiled import BackendError, Slot
from chunkwise.plugins import MissingExtra, require

Array = NDArray[Any]
HUGE_PAGES_FIRST = 0
HOST_TO_DEVICE, DEVICE_TO_HOST, DEVICE_TO_DEVICE = 1, 2, 3
INITIALISED_BEFORE = 100002
"""Of `acl.init`: something else in this process did it already."""
TYPES = {
    0: "float32",
    1: "float16",
    2: "int8",
    3: "int32",
    4: "uint8",
    6: "int16",
    7: "uint16",
    8: "uint32",
    9: "int64",
    10: "uint64",
    11: "float64",
    12: "bool",
}
"""ACL's numbers of types, and numpy's names."""
TAKEN_FOR = {"float32": ("float16",), "int64": ("int32",), "bool": ("uint8", "int8")}
"""What a network may have in the place of what it is given: compilers narrow these."""


class Card:
    """One NPU, and this engine's context on it.

    ACL is never finalised and the card never reset: others in the process may use them, and its end does both.

    Args:
        number: of the card.

    Raises:
        MissingExtra: there is no ACL.
        BackendError: it cannot be used.
    """

    def __init__(self, number: int) -> None:
        try:
            self.acl = require("acl", extra="ascend_om")
        except MissingExtra as missing:
            raise MissingExtra(
                "acl is not installed: Ascend ACL runtime is required for OM inference; it comes with Huawei's "
                "CANN toolkit, whose set_env.sh makes it known to Python"
            ) from missing
        code = self.acl.init()
        if code not in (0, INITIALISED_BEFORE):
            raise BackendError(f"acl.init failed with {code}")
        self.done(self.acl.rt.set_device(number), f"acl.rt.set_device({number})")
        self._context = self.got(self.acl.rt.create_context(number), "acl.rt.create_context")

    def use(self) -> None:
        """Make the context that of the calling thread; ACL keeps one for each."""
        self.done(self.acl.rt.set_context(self._context), "acl.rt.set_context")

    def close(self) -> None:
        """Let go of the context."""
        self.acl.rt.destroy_context(self._context)

    def done(self, code: int, what: str) -> None:
        """See that a call went well."""
        if code != 0:
            raise BackendError(f"{what} failed with {code}")

    def got(self, answer: tuple[Any, int], what: str) -> Any:
        """The value that a call answered."""
        value, code = answer
        self.done(code, what)
        return value


class Block:
    """Memory on the card."""

    def __init__(self, card: Card, size: int) -> None:
        self._card, self.size = card, size
        self.pointer = card.got(card.acl.rt.malloc(size, HUGE_PAGES_FIRST), f"acl.rt.malloc({size})")

    def write(self, array: Array) -> None:
        """From an array, which is contiguous and of this size."""
        self._copy(self.pointer, array.ctypes.data, HOST_TO_DEVICE)

    def read(self, slot: Slot) -> Array:
        """As an array."""
        made = np.empty(slot.shape, slot.dtype)
        self._copy(made.ctypes.data, self.pointer, DEVICE_TO_HOST)
        return made

    def take(self, other: Block) -> None:
        """What another block of this size holds."""
        self._copy(self.pointer, other.pointer, DEVICE_TO_DEVICE)

    def free(self) -> None:
        """Give it back."""
        self._card.acl.rt.free(self.pointer)

    def _copy(self, to: int, start: int, way: int) -> None:
        self._card.done(self._card.acl.rt.memcpy(to, self.size, start, self.size, way), "acl.rt.memcpy")


class OmModel:
    """One ``.om`` file on a card.

    Args:
        card: where.
        path: of the file.

    Attributes:
        inputs, outputs: what it takes and gives.

    Raises:
        BackendError: it is no such file, or has a size or a type that is not known before it runs.
    """

    def __init__(self, card: Card, path: Path) -> None:
        self._card, self._path, self._model = card, path, card.acl.mdl
        self._blocks: list[Block] = []  # that are this model's own
        self._datasets: list[tuple[Any, list[Any]]] = []
        self._id = card.got(self._model.load_from_file(str(path)), f"acl.mdl.load_from_file({path})")
        self._desc = self._model.create_desc()
        try:
            card.done(self._model.get_desc(self._desc, self._id), "acl.mdl.get_desc")
            self.inputs, self.outputs = self._slots("input"), self._slots("output")
        except BaseException:
            self.close()
            raise

    def bind(self, shared: Mapping[int, Block] | None = None) -> None:
        """Get memory for what goes in and out, but for inputs that are other models' outputs."""
        given = shared or {}
        self.taken = [given.get(place) or self._block(slot) for place, slot in enumerate(self.inputs)]
        self.given = [self._block(slot) for slot in self.outputs]
        for blocks in (self.taken, self.given):
            self._dataset(blocks)

    def write(self, place: int, array: Array) -> None:
        """One input.

        Raises:
            BackendError: it is of another shape, or a type that the network has nothing for.
        """
        slot = self.inputs[place]
        wanted = np.dtype(slot.dtype)
        if array.shape != slot.shape or (
            array.dtype != wanted and slot.dtype not in TAKEN_FOR.get(str(array.dtype), ())
        ):
            raise BackendError(
                f"{self._path} takes {slot} as input {place}, and is given {array.dtype} {list(array.shape)}; "
                "its inputs may stand in another order, which compiled_runtime_input_order in config.json tells"
            )
        self.taken[place].write(np.ascontiguousarray(array, wanted))

    def execute(self) -> None:
        """Run it once."""
        taken, given = (dataset for dataset, _ in self._datasets)
        self._card.done(self._model.execute(self._id, taken, given), f"acl.mdl.execute of {self._path}")

    def read(self, place: int) -> Array:
        """One output."""
        return self.given[place].read(self.outputs[place])

    def close(self) -> None:
        """Let go of it and of its memory."""
        acl = self._card.acl
        for dataset, buffers in self._datasets:
            for buffer in buffers:
                acl.destroy_data_buffer(buffer)
            self._model.destroy_dataset(dataset)
        for block in self._blocks:
            block.free()
        self._datasets, self._blocks = [], []
        self._model.destroy_desc(self._desc)
        self._model.unload(self._id)

    def _block(self, slot: Slot) -> Block:
        self._blocks.append(Block(self._card, slot.bytes))
        return self._blocks[-1]

    def _dataset(self, blocks: Sequence[Block]) -> None:
        dataset, buffers = self._model.create_dataset(), list[Any]()
        self._datasets.append((dataset, buffers))
        for block in blocks:
            buffers.append(self._card.acl.create_data_buffer(block.pointer, block.size))
            _, code = self._model.add_dataset_buffer(dataset, buffers[-1])
            self._card.done(code, "acl.mdl.add_dataset_buffer")

    def _slots(self, kind: str) -> list[Slot]:
        def ask(what: str, *place: int) -> Any:
            return getattr(self._model, what.format(kind))(self._desc, *place)

        made = []
        for place in range(ask("get_num_{}s")):
            dims = self._card.got(ask("get_{}_dims", place), f"acl.mdl.get_{kind}_dims")
            code = ask("get_{}_data_type", place)
            slot = Slot(ask("get_{}_name_by_index", place), tuple(dims["dims"]), TYPES.get(code, f"type {code}"))
            if code not in TYPES:
                raise BackendError(f"{self._path}: {kind} {place} is of ACL's {slot.dtype}, which is none of ours")
            size = ask("get_{}_size_by_index", place)
            if any(side < 1 for side in slot.shape) or size != slot.bytes:
                raise BackendError(
                    f"{self._path}: {kind} {slot} has {size} bytes; it must be compiled with fixed shapes and no "
                    "preprocessing of its own (AIPP)"
                )
            made.append(slot)
        return made
