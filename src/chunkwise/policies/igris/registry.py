"""Names to policies and to parts of networks: what a policy YAML may call, and where it is looked for."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import zlib
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

from chunkwise import plugins
from chunkwise.contract.errors import InterfaceValidationError, nearest

T = TypeVar("T", bound=Callable[..., Any])


@runtime_checkable
class PolicyProtocol(Protocol):
    """A policy of the IGRIS inference engine: any class with these methods; nothing is inherited.

    It is made as ``cls(components={name: part}, **params)``.  It is in charge of its own normalisation: raw
    observations in, actions in the robot's units out.  It keeps nothing between calls.

    ``input_data`` holds fresh arrays, which it may change:

    =====================  ==========================  =======  ==========================================
    key                    shape                       dtype    what
    =====================  ==========================  =======  ==========================================
    ``proprio``            (history, state_dim)        float32  state, newest in row 0
    each camera's name     (num_img_obs, 3, H, W)      uint8    RGB, newest at index 0
    ``prompt``             text                                 the task; not there where nobody says one
    =====================  ==========================  =======  ==========================================

    and for `guided_inference` also

    ======================  =========================  =======  ==========================================
    ``prev_action``         (chunk, action_dim)        float32  the running plan; row 0 is what runs now.
                                                                Past its end its last row repeats.
    ``action``              (chunk, action_dim)        float32  the running chunk from its beginning: rows
                                                                that have run, then the plan.  What has run
                                                                stands as the row that runs now.
    ``num_control_iters``   int                                 rows of it that have run (``s``)
    ``est_delay``           int                                 rows that will have run when the answer
                                                                comes (``d``), at most ``chunk - s``
    ======================  =========================  =======  ==========================================
    """

    def predict(self, input_data: dict[str, Any], data_normalization_interface: Any) -> Any:
        """A chunk (action_chunk_size, action_dim), of numpy or torch, perhaps with a leading axis of one."""
        ...

    def guided_inference(
        self,
        input_data: dict[str, Any],
        data_normalization_interface: Any,
        min_num_actions_executed: int,
        action_chunk_size: int,
    ) -> Any:
        """The same, continuing the running plan."""
        ...

    def warmup(self) -> None:
        """Once, before the robot moves; what it raises ends the start."""
        ...

    def freeze_all_model_params(self) -> None:
        """Once, when the policy has been made: nothing is trained here."""
        ...


METHODS = ("predict", "guided_inference", "warmup", "freeze_all_model_params")


class RegistryError(InterfaceValidationError, KeyError):
    """A name that is not registered, or that is taken."""

    def __str__(self) -> str:  # KeyError's would put it into quotes
        return str(self.args[0])


class Registry(Generic[T]):
    """Names to classes.

    Args:
        what: what is registered, for messages.
        methods: what every class must have.
        group: entry points by which other packages add theirs.
        late: names to ``module:Class``, imported when asked for.
    """

    def __init__(
        self, what: str, *, methods: Sequence[str] = (), group: str = "", late: Mapping[str, str] | None = None
    ) -> None:
        self._what, self._methods, self._group, self._late = what, methods, group, dict(late or {})
        self._there: dict[str, T] = {}

    def register(self, key: str | None = None) -> Callable[[T], T]:
        """A decorator that registers a class, under its own name where `key` is None.

        Raises:
            KeyError: the name is taken.
            TypeError: the class lacks a method.
        """
        if key is not None and not isinstance(key, str):
            raise TypeError(f"write @register('name') or @register(), with brackets; got {key!r}")

        def registered(item: T) -> T:
            self.add(key or item.__name__, item)
            return item

        return registered

    def add(self, key: str, item: T) -> None:
        """Register `item`; the same errors as `register`."""
        self.check(item)
        if key in self._there:
            raise RegistryError(f"{self._what} {key!r} is registered already, by {file_of(self._there[key])}")
        self._there[key] = item

    def check(self, item: Any) -> None:
        """Raise TypeError, naming what is missing, where `item` cannot be registered."""
        if not callable(item):
            raise TypeError(f"{self._what} {item!r} is not a class")
        missing = [name for name in self._methods if not callable(getattr(item, name, None))]
        if missing:
            raise TypeError(f"{self._what} {item.__name__} lacks {', '.join(missing)}")

    def get(self, key: str) -> T:
        """The class of that name.

        Raises:
            KeyError: there is none; the message lists those there are.
        """
        if key in self._there:
            return self._there[key]
        found: Any = None
        if key in self._late:
            module, _, name = self._late[key].partition(":")
            found = getattr(importlib.import_module(module), name)
        for point in entry_points(group=self._group) if self._group else ():
            if found is None and point.name == key:
                found = point.load()
        if found is None:
            known = self.keys()
            raise RegistryError(
                f"no {self._what} {key!r}{nearest(key, known)}; there are: {', '.join(known) or 'none'}"
            )
        if key not in self._there:  # its module may have registered it while it was imported
            self.add(key, found)
        return self._there[key]

    def has(self, key: str) -> bool:
        """Whether `get` finds it."""
        return key in self.keys()

    def keys(self) -> list[str]:
        """Every name, sorted."""
        further = {point.name for point in entry_points(group=self._group)} if self._group else set()
        return sorted({*self._there, *self._late, *further})

    def file(self, key: str) -> Path | None:
        """The file that a registered class is from; None where the name is not registered yet, or of no file."""
        return file_of(self._there[key]) if key in self._there else None

    def load_file(self, path: Path) -> list[str]:
        """Run a file, once in a process, and tell what names it added.  One that fails adds nothing."""
        before = dict(self._there)
        try:
            module_of(path)
        except BaseException:
            self._there = before
            raise
        return sorted(self._there.keys() - before.keys())


def module_of(path: Path) -> ModuleType:
    """A file as a module; run once in a process, however often it is asked for.  It may import its neighbours."""
    path = path.resolve()
    name = f"igris_{path.stem}_{zlib.crc32(str(path).encode()):08x}"  # two folders may have one name
    if name in sys.modules:
        return sys.modules[name]
    if str(path.parent) not in sys.path:  # last, to shadow nothing
        sys.path.append(str(path.parent))
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def file_of(item: Any) -> Path | None:
    """The file that defines a class or function; None where there is none, as at a prompt."""
    file = getattr(sys.modules.get(item.__module__), "__file__", None)
    return Path(file).resolve() if file else None


POLICY_REGISTRY: Registry[Callable[..., Any]] = Registry(
    "policy",
    methods=METHODS,
    group="chunkwise.igris_policies",
    late={"openpi_policy": "chunkwise.policies.igris.openpi:OpenPiPolicy"},
)
"""Classes that ``policy.type`` may name."""

COMPONENT_REGISTRY: Registry[Callable[..., Any]] = Registry(
    "component type",
    group="chunkwise.igris_components",
    late={"openpi_batched": "chunkwise.policies.igris.openpi:OpenPiBatched"},
)
"""What ``_type_`` may name besides the layers of ``torch.nn``."""


def find_policy(name: str, folder: Path) -> Callable[..., Any]:
    """The class that ``policy.type`` means.

    Looked for, in this order: ``module:Class``; ``path.py:Class``; the file ``<name>.py`` in `folder`, which
    registers it; what is registered; entry points of the group ``chunkwise.igris_policies``.

    Args:
        name: as in the YAML.
        folder: of the YAML; relative paths begin there.

    Raises:
        KeyError: there is none, or two of one name.
        TypeError: the class lacks a method of `PolicyProtocol`.
        UnknownAdapter: no such module, file or class.
    """
    where, colon, attribute = name.rpartition(":")
    if colon and where.endswith(".py"):
        path = folder / where
        if not path.is_file():
            raise plugins.UnknownAdapter(f"policy.type {name!r}: no file {path}")
        POLICY_REGISTRY.load_file(path)
        found = getattr(module_of(path), attribute, None)
        if found is None:
            defined = [key for key in vars(module_of(path)) if not key.startswith("_")]
            raise plugins.UnknownAdapter(f"{path} has no {attribute!r}{nearest(attribute, defined)}")
    elif colon:
        found = plugins.load("policies", name)
    else:
        return _registered(name, folder / f"{Path(name).name}.py")
    POLICY_REGISTRY.check(found)
    checked: Callable[..., Any] = found
    return checked


def _registered(name: str, beside: Path) -> Callable[..., Any]:
    """The class of a registered name, once the file beside the YAML, where there is one, has registered it."""
    if not beside.is_file():
        try:
            return POLICY_REGISTRY.get(name)
        except RegistryError as error:
            cure = f"put {beside.name} beside the YAML, or write module:Class or path.py:Class"
            raise RegistryError(f"{error}; {cure}") from None
    if POLICY_REGISTRY.file(name) is None:
        added = POLICY_REGISTRY.load_file(beside)
        if name not in added:
            raise RegistryError(
                f"{beside} registers no policy {name!r}{nearest(name, added)}; it registers: "
                f"{', '.join(added) or 'none'}.  Put @POLICY_REGISTRY.register({name!r}) before its class"
            )
    elif POLICY_REGISTRY.file(name) != beside.resolve():
        raise RegistryError(
            f"policy {name!r} is registered already, by {POLICY_REGISTRY.file(name)}, and {beside} stands beside "
            "the YAML: give one of them another name"
        )
    return POLICY_REGISTRY.get(name)
