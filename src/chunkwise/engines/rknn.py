"""ACT compiled for the NPU of a Rockchip processor, by its ``.rknn`` file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chunkwise.engines import Precision, TensorSpec
from chunkwise.engines._compiled import ACTION, CONFIG, BackendError, read_policy
from chunkwise.engines._compiled_act import ActInputs, chunk_of
from chunkwise.engines._devices import choose_compiled
from chunkwise.engines._network import Network
from chunkwise.plugins import MissingExtra, require

__all__ = ["Rknn"]

NAME = "rknn"
SUFFIX = ".rknn"
CORES = ("0", "1", "2", "0_1", "0_1_2", "all")
"""What may follow ``rknn:``, the cores of an RK3588 or RK3576; the runtime chooses where nothing does."""
Array = NDArray[Any]


class Rknn(Network):
    """A policy's directory with ``model.rknn``, or the file itself, run by Rockchip's RKNNLite.

    Neither torch nor the policy's weights are needed.  The file is asked once when it is loaded, for it does not
    say how many rows it answers.

    Args:
        threads: of the processor, which computes nothing here.
        dtype: ``float32``, what goes in and comes out; the file says what is computed in.

    Attributes:
        policy_type: the family; "" before `load`.
        backend_type: ``rknn``.
    """

    precisions = ("float32",)
    backend_type = NAME

    def __init__(self, *, threads: int = 1, dtype: Precision = "float32") -> None:
        super().__init__(threads=threads, dtype=dtype)
        self._runtime: Any = None
        self.policy_type = ""

    def load(self, path: str, device: str = NAME) -> None:
        super().load(path, device)

    def _open(self, path: str, device: str) -> str:
        chosen = choose_compiled(device, NAME, CORES)
        file = rknn_file(path)
        policy = read_policy(file.parent, NAME)
        try:
            maker = require("rknnlite.api", extra=NAME).RKNNLite
        except MissingExtra as missing:
            raise MissingExtra(
                "rknnlite is not installed: it comes with Rockchip's rknn-toolkit2, as rknn_toolkit_lite2, a "
                "wheel for the board's own Python"
            ) from missing
        self._runtime = maker()
        cores = chosen.partition(":")[2].upper()
        options = {"core_mask": getattr(maker, f"NPU_CORE_{cores}")} if cores else {}
        _done(self._runtime.load_rknn(str(file)), "load_rknn")
        _done(self._runtime.init_runtime(**options), "init_runtime")
        self._inputs, self._dim = ActInputs(policy), policy.action_dim
        self.policy_type, self.inputs = policy.policy_type, self._inputs.specs
        self.outputs = {ACTION: TensorSpec((1, self._asked(self._nothing()).shape[1], self._dim), "float32")}
        return chosen

    def _call(self, tensors: Mapping[str, Array]) -> dict[str, Array]:
        chunk = self._asked(tensors)
        if chunk.shape != self.outputs[ACTION].shape:
            raise BackendError(
                f"RKNN inference answered {chunk.shape}, and when loaded {self.outputs[ACTION].shape}"
            )
        return {ACTION: chunk}

    def _release(self) -> None:
        runtime, self._runtime = self._runtime, None
        self.policy_type = ""
        if runtime is not None:
            runtime.release()

    def _asked(self, tensors: Mapping[str, Array]) -> NDArray[np.float32]:
        arrays = self._inputs.arrays(tensors)
        try:  # it takes pictures for (1, H, W, C) unless it is told
            answer: Sequence[Array] | None = self._runtime.inference(
                inputs=arrays, data_format=["nchw"] * len(arrays)
            )
        except Exception as error:  # of the vendor's, of any kind
            raise BackendError(
                f"RKNN inference failed: {error}; the compiler may have put the inputs into another order than "
                f"{', '.join(self.inputs)}, which compiled_runtime_input_order in config.json tells"
            ) from error
        if not answer:
            raise BackendError(
                "RKNN inference returned no outputs; its inputs may stand in another order than "
                f"{', '.join(self.inputs)}, which compiled_runtime_input_order in config.json tells"
            )
        return chunk_of(answer, NAME, self._dim)


def rknn_file(path: str) -> Path:
    """The network's file.

    Args:
        path: of the file, of the policy's ``config.json``, or of its directory: there ``model.rknn``, else the
            file named like the directory, else the only one.

    Raises:
        FileNotFoundError: there is none.
        BackendError: there are several, and nothing says which.
    """
    there = Path(path).expanduser()
    if there.suffix.lower() == SUFFIX and there.is_file():
        return there
    folder = there.parent if there.name == CONFIG else there
    tried = [folder / f"model{SUFFIX}", folder / f"{folder.resolve().name}{SUFFIX}"]
    for file in tried:
        if file.is_file():
            return file
    found = sorted(folder.glob(f"*{SUFFIX}")) if folder.is_dir() else []
    if len(found) == 1:
        return found[0]
    if found:
        raise BackendError(
            f"{folder} has several RKNN models, {', '.join(file.name for file in found)}; call one model{SUFFIX}"
        )
    checked = ", ".join(map(str, [*tried, folder / f"*{SUFFIX}"]))
    raise FileNotFoundError(f"RKNN model file not found under policy_path {path}. Checked: {checked}")


def _done(code: int, what: str) -> None:
    if code != 0:
        raise BackendError(f"RKNN {what} failed with ret={code}")
