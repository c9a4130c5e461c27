"""A network of torch's made into files that other runtimes read.  Used by ``chunkwise export``, on a desk."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from chunkwise.engines._torch import import_torch
from chunkwise.plugins import require


def program_of(network: Any, example: Mapping[str, NDArray[Any]]) -> Any:
    """A module as one program of torch's operators.

    Args:
        network: a `torch.nn.Module` that takes the tensors in this order.
        example: tensors of the shapes that it will be run on: sizes are fixed, the batch's too, for a network
            whose sizes are known runs faster.
    """
    torch = import_torch()
    with _quiet(), torch.no_grad():
        return torch.export.export(network, tuple(torch.tensor(array) for array in example.values()))


def write_torch(program: Any, path: Path) -> None:
    """As a ``.pt2`` of torch's own."""
    with _quiet():
        import_torch().export.save(program, path)


def write_onnx(program: Any, path: Path, *, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """As ONNX, weights in the same file.

    Raises:
        MissingExtra: onnx or onnxscript is not installed.
    """
    for package in ("onnx", "onnxscript"):
        require(package, extra="export")
    with _quiet():
        made = import_torch().onnx.export(
            program,
            input_names=list(inputs),
            output_names=list(outputs),
            dynamo=True,
            external_data=False,
            verbose=False,
        )
        made.save(path)


def write_openvino(onnx: Path, path: Path) -> None:
    """An ONNX file as OpenVINO's ``.xml`` and ``.bin``, in float32.

    Raises:
        MissingExtra: openvino is not installed.
    """
    runtime = require("openvino", extra="openvino")
    runtime.save_model(runtime.Core().read_model(onnx), path, compress_to_fp16=False)


def write_aoti(program: Any, path: Path, *, threads: int) -> None:
    """As machine code for this processor; takes half a minute, and a C++ compiler.

    Args:
        program: of :func:`program_of`.
        path: ends in ``.pt2``.
        threads: that it will use, for good.
    """
    torch = import_torch()
    settings = {
        "cpp.threads": threads,
        "freezing": True,
    }  # frozen weights are laid out for the processor only once
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with _quiet(), torch.no_grad():
            torch._inductor.aoti_compile_and_package(program, package_path=str(path), inductor_configs=settings)
    finally:
        torch.set_num_threads(before)


@contextmanager
def _quiet() -> Iterator[None]:
    """Where converters may say what they skipped without anybody reading it; what fails still raises."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
