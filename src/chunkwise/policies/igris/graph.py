"""A network written down as a graph of calls.  Needs torch, so it is imported when there is a graph."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from chunkwise.plugins import require
from chunkwise.policies.igris.networks import OPERATIONS, Node

torch: Any = require("torch", extra="torch")


class GraphModel(torch.nn.Module):  # type: ignore[misc]
    """Calls in the order they are written, each of a module or an operation, on values made before.

    Its weights are named ``graph_modules.<module>.<...>``.

    Args:
        inputs: names of its arguments, in order.
        modules: what ``module:`` calls; those that are no torch modules are called just the same.
        nodes: the calls, each named once and reading only what is there before it.
        outputs: output name -> value.
        form: makes what is returned of the outputs by name.
    """

    def __init__(
        self,
        inputs: Sequence[str],
        modules: Mapping[str, Any],
        nodes: Sequence[Node],
        outputs: Mapping[str, str],
        form: Callable[[dict[str, Any]], Any],
    ) -> None:
        super().__init__()
        networks = {name: made for name, made in modules.items() if isinstance(made, torch.nn.Module)}
        self.graph_modules = torch.nn.ModuleDict(networks)
        self.parts = dict(modules)
        self._inputs, self._nodes, self._outputs, self._form = tuple(inputs), tuple(nodes), dict(outputs), form

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The outputs for these inputs, by position or name.

        Raises:
            TypeError: an input is missing, unknown, or given twice.
        """
        values = dict(zip(self._inputs, args, strict=False))
        if len(args) > len(self._inputs) or values.keys() & kwargs.keys():
            raise TypeError(f"the graph takes {', '.join(self._inputs)}, each once")
        values |= kwargs
        if values.keys() != set(self._inputs):
            raise TypeError(
                f"the graph takes {', '.join(self._inputs)}; it was given {', '.join(values) or 'nothing'}"
            )
        for node in self._nodes:
            kind, _, what = node.call.partition(":")
            called = self.parts[what] if kind == "module" else _operation(what)
            values[node.name] = called(*_filled(node.args, values), **_filled(node.kwargs, values))
        return self._form({name: values[value] for name, value in self._outputs.items()})


def _operation(name: str) -> Callable[..., Any]:
    if name == "getitem":
        return operator.getitem
    if name == "float":
        return lambda value: value.float()
    found: Callable[..., Any] = operator.attrgetter(OPERATIONS[name])(torch)
    return found


def _filled(tree: Any, values: Mapping[str, Any]) -> Any:
    """`tree` with every ``$x`` replaced by its value."""
    if isinstance(tree, Mapping):
        return {key: _filled(value, values) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [_filled(value, values) for value in tree]
    return values[tree[1:]] if isinstance(tree, str) and tree.startswith("$") else tree
