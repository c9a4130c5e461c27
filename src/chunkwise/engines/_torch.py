"""What the engines that run on torch share: its devices, its threads, its tensors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chunkwise.engines import Precision
from chunkwise.engines._devices import choose
from chunkwise.plugins import require


def import_torch() -> Any:
    """The package.

    Raises:
        MissingExtra: it is not installed.
    """
    return require("torch", extra="torch")


def torch_device(device: str) -> str:
    """Torch's name of the device that a word means.

    Raises:
        DeviceError: it is not there.
    """
    torch = import_torch()
    there = [f"cuda:{number}" for number in range(torch.cuda.device_count() if torch.cuda.is_available() else 0)]
    there += ["mps"] * torch.backends.mps.is_available()
    return choose(device, [*there, "cpu"], "torch")


@contextmanager
def inference(device: str, threads: int, dtype: Precision, *, differentiable: bool = False) -> Iterator[None]:
    """Where a network is computed: no gradients, so many threads, in this precision.

    Gradients can be had inside, by ``torch.enable_grad``, only where they are announced: torch's inference mode,
    which is a little faster, knows none.  So where they are, a caller's own inference mode does not hold inside.

    The number of threads is one for the whole process, and a thread that computes for the first time takes it up
    by itself; so it is set in every call, which costs nothing where it is set already.
    """
    torch = import_torch()
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
    lower = dtype != "float32"
    mode = torch.inference_mode(not differentiable)
    with mode, torch.no_grad(), torch.autocast(device.partition(":")[0], getattr(torch, dtype), enabled=lower):
        yield


def to_torch(array: NDArray[Any], device: str) -> Any:
    """A tensor of its own: some networks write into what they are given."""
    return import_torch().tensor(np.ascontiguousarray(array), device=device)


def to_numpy(tensor: Any) -> NDArray[Any]:
    """An array of its own, float32 where the tensor is of a float that numpy lacks."""
    torch = import_torch()
    if tensor.dtype in (torch.bfloat16, torch.float16):
        tensor = tensor.float()
    array: NDArray[Any] = tensor.detach().cpu().numpy()
    return array if array.flags.owndata and array.flags.writeable else array.copy()


def numpy_dtype(dtype: Any) -> str:
    """Numpy's name of a torch type; float32 for the floats that it lacks."""
    name = str(dtype).removeprefix("torch.")
    return "float32" if name in ("bfloat16", "float16") else name
