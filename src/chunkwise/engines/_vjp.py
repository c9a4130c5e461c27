"""A velocity field of torch and its vector-Jacobian product as one program without autograd, to be exported."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from numpy.typing import NDArray

from chunkwise.engines._conversion import program_of
from chunkwise.engines._torch import import_torch


def flat_program(call: Callable[..., Any], example: Sequence[NDArray[Any]]) -> Any:
    """A function of tensors, its backward passes written out, as a program of torch's core operators.

    Args:
        call: tensors to a tensor or several; it may call `torch.autograd.grad`.
        example: arrays of the shapes that it will be run on.
    """
    torch = import_torch()
    tracer = torch.fx.experimental.proxy_tensor
    tensors = [torch.tensor(array) for array in example]
    operators = torch._decomp.core_aten_decompositions()
    operators[torch.ops.aten.convolution_backward.default] = _convolution_backward
    plain = torch.nn.attention.sdpa_kernel(
        torch.nn.attention.SDPBackend.MATH
    )  # the fused ones' gradients are of torch
    with torch.no_grad(), plain:
        graph = tracer.make_fx(call, decomposition_table=operators, tracing_mode="real")(*tensors)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    named = {f"x{place}": array for place, array in enumerate(example)}
    return program_of(graph, named)


def _convolution_backward(
    gradient: Any,
    x: Any,
    weight: Any,
    bias_sizes: Any,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    transposed: bool,
    output_padding: list[int],
    groups: int,
    output_mask: list[bool],
) -> tuple[Any, None, None]:
    """The gradient of a convolution's input, which is a convolution too; torch's core operators lack it."""
    if output_mask[1] or output_mask[2]:
        raise ValueError("a parameter asks for a gradient: freeze the network before it is exported")
    aten = import_torch().ops.aten
    if transposed:
        nothing = [0] * len(stride)
        back = aten.convolution(gradient, weight, None, stride, padding, dilation, False, nothing, groups)
        return back, None, None
    missing = [  # what a stride left out at the end
        size - ((made - 1) * step - 2 * pad + spread * (kernel - 1) + 1)
        for size, made, step, pad, spread, kernel in zip(
            x.shape[2:], gradient.shape[2:], stride, padding, dilation, weight.shape[2:], strict=True
        )
    ]
    back = aten.convolution(gradient, weight, None, stride, padding, dilation, True, missing, groups)
    return back, None, None
