"""The two forms of a network in a component file, ``sequential`` and ``graph``: checked before they run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from chunkwise.contract.errors import nearest
from chunkwise.plugins import require
from chunkwise.policies.igris.documents import PolicyFileError, mapping, refuse_unknown
from chunkwise.policies.igris.layers import Maker, call

OPERATIONS = {
    **{name: name for name in ("add", "sub", "mul", "div", "matmul", "cat", "stack", "reshape", "flatten")},
    **{name: name for name in ("permute", "transpose", "unsqueeze", "squeeze", "mean", "sum", "clamp")},
    **{name: name for name in ("relu", "tanh", "sigmoid", "softmax")},
    "gelu": "nn.functional.gelu",
    "silu": "nn.functional.silu",
}
"""What ``op:`` may name: functions of torch.  Besides them ``getitem`` (value, index or key) and ``float``."""


@dataclass(frozen=True, slots=True)
class Node:
    """One call in a graph: ``module:NAME`` or ``op:NAME``, its arguments with ``$x`` for values made before."""

    name: str
    call: str
    args: Sequence[Any]
    kwargs: Mapping[str, Any]


def build_model(maker: Maker, tree: Mapping[str, Any], where: str) -> Any:
    """The network of a ``model`` key.

    Raises:
        PolicyFileError: the message names the key.
    """
    refuse_unknown(tree, ("sequential", "graph"), where)
    if len(tree) != 1:
        raise PolicyFileError(f"{where} must have either sequential or graph, has {', '.join(tree) or 'neither'}")
    if "sequential" in tree:
        return _sequential(maker, mapping(tree["sequential"], f"{where}.sequential"), f"{where}.sequential")
    return _graph(maker, mapping(tree["graph"], f"{where}.graph"), f"{where}.graph")


def _sequential(maker: Maker, tree: Mapping[str, Any], where: str) -> Any:
    """Layers one after the other: a ``torch.nn.Sequential``, whose weights are ``0.weight`` and so on."""
    refuse_unknown(tree, ("layers",), where)
    layers = tree.get("layers")
    if not isinstance(layers, list) or not layers:
        raise PolicyFileError(f"{where}.layers must be a list of layers, got {layers!r}")
    torch = require("torch", extra="torch")
    made = [maker.make(layer, f"{where}.layers[{index}]") for index, layer in enumerate(layers)]
    return call(torch.nn.Sequential, made, {}, where)


def _graph(maker: Maker, tree: Mapping[str, Any], where: str) -> Any:
    refuse_unknown(tree, ("inputs", "modules", "nodes", "outputs", "return"), where)
    inputs = _names(tree.get("inputs"), f"{where}.inputs")
    modules = {
        name: maker.make(layer, f"{where}.modules.{name}")
        for name, layer in mapping(tree.get("modules"), f"{where}.modules").items()
    }
    nodes = tree.get("nodes")
    if not isinstance(nodes, list):
        raise PolicyFileError(f"{where}.nodes must be a list of calls, got {nodes!r}")
    there = list(inputs)
    made = []
    for index, item in enumerate(nodes):
        node = _node(item, modules, there, f"{where}.nodes[{index}]")
        made.append(node)
        there.append(node.name)
    outputs = _outputs(tree, there, where)
    from chunkwise.policies.igris.graph import GraphModel

    form = _OUTPUT_FORMS[_form(tree, outputs, where)]
    return call(GraphModel, [inputs, modules, made, outputs, form], {}, where)


def _node(tree: object, modules: Mapping[str, Any], there: Sequence[str], where: str) -> Node:
    given = mapping(tree, where)
    refuse_unknown(given, ("name", "call", "args", "kwargs"), where)
    name, called = given.get("name"), given.get("call")
    if not isinstance(name, str) or not name.isidentifier() or name in there:
        raise PolicyFileError(f"{where}: name must be a new name, got {name!r}; there are: {', '.join(there)}")
    kind, _, what = str(called).partition(":")
    known = {"module": list(modules), "op": [*OPERATIONS, "getitem", "float"]}
    if kind not in known or what not in known[kind]:
        listed = f"{nearest(what, known.get(kind, []))}; there are: {', '.join(known.get(kind, []))}"
        raise PolicyFileError(
            f"{where}: call must be module:NAME or op:NAME, got {called!r}" + (listed if kind in known else "")
        )
    args, kwargs = given.get("args", []), mapping(given.get("kwargs"), f"{where}.kwargs")
    if not isinstance(args, list):
        raise PolicyFileError(f"{where}.args must be a list, got {args!r}")
    for value in referred([args, kwargs]):
        if value not in there:
            raise PolicyFileError(
                f"{where}: ${value} is not known here{nearest(value, there)}; there are: {', '.join(there)}"
            )
    return Node(name, f"{kind}:{what}", args, kwargs)


def referred(tree: object) -> list[str]:
    """Every ``$x`` in a tree, without the dollar.

    >>> referred([["$a", 1], {"dim": "$b"}])
    ['a', 'b']
    """
    if isinstance(tree, Mapping):
        tree = list(tree.values())
    if isinstance(tree, list):
        return [name for item in tree for name in referred(item)]
    return [tree[1:]] if isinstance(tree, str) and tree.startswith("$") else []


_OUTPUT_FORMS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "single": lambda values: next(iter(values.values())),
    "tuple": lambda values: tuple(values.values()),
    "dict": dict,
}


def _outputs(tree: Mapping[str, Any], there: Sequence[str], where: str) -> dict[str, str]:
    """Output name -> value's name; a list of values names each after itself."""
    given = tree.get("outputs")
    if isinstance(given, Mapping):
        outputs = {name: str(value).removeprefix("$") for name, value in given.items()}
    else:
        outputs = {name: name for name in _names(given, f"{where}.outputs")}
    for value in outputs.values():
        if value not in there:
            raise PolicyFileError(
                f"{where}.outputs: no value {value!r}{nearest(value, there)}; there are: {', '.join(there)}"
            )
    return outputs


def _form(tree: Mapping[str, Any], outputs: Mapping[str, str], where: str) -> str:
    form = str(tree.get("return", "single" if len(outputs) == 1 else "dict"))
    if form not in _OUTPUT_FORMS:
        known = list(_OUTPUT_FORMS)
        raise PolicyFileError(f"{where}.return must be one of {', '.join(known)}, got {form!r}")
    if form == "single" and len(outputs) != 1:
        raise PolicyFileError(f"{where}: return: single wants one output, there are: {', '.join(outputs)}")
    return form


def _names(value: object, where: str) -> list[str]:
    names = [str(item).removeprefix("$") for item in value] if isinstance(value, list) else []
    if not names or len(set(names)) != len(names) or not all(name.isidentifier() for name in names):
        raise PolicyFileError(f"{where} must be a list of names, each once, got {value!r}")
    return names
