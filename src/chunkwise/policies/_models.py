"""Models that share their replicas: fine-tuned checkpoints of one policy, say, one for each robot or task."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable, Mapping
from dataclasses import replace
from difflib import SequenceMatcher
from typing import Any, Final

from chunkwise.contract import Frame, InterfaceValidationError, PolicySpec, policy_differences
from chunkwise.options import UsageError
from chunkwise.policies import Recipe

MODEL: Final = "model"
"""The entry of a frame's task that names the model."""
ONLY: Final = "policy"
"""The name of a policy that shares its replicas with no other one."""
MOST, MAX_NAME = 256, 64
"""Models, and letters of a name."""


class UnknownModel(InterfaceValidationError):
    """A request names no model, or one that is not there."""


class Models:
    """Policies by name; a request says which one is meant.

    Args:
        of: the only one: a name, or a mapping of ``name`` and options.
        models: several: the same by their names.
        default: the one that is meant by a request that names none; empty for none, and such a request is refused.

    Attributes:
        recipes: by name, in their order.

    Raises:
        UsageError: there is neither or both, or one of them has no name.
    """

    def __init__(self, of: Any, models: Any, default: str = "") -> None:
        self._several = models is not None
        if self._several == (of is not None):
            raise UsageError("of: one policy, or models: several by their names; one of the two is needed")
        if not self._several:
            self.recipes = {ONLY: _recipe(of, "of")}
        elif not isinstance(models, Mapping) or not 0 < len(models) <= MOST:
            raise UsageError(
                f"models: a mapping of names to policies is needed, {MOST} at most, got {models!r:.200}"
            )
        else:
            self.recipes = {_name(name): _recipe(one, f"models: {name}") for name, one in models.items()}
        if default and (not self._several or default not in self.recipes):
            raise UsageError(f"default_model: {self._no_model(default)}")
        self._default = default

    def named(self, frame: Frame) -> str | None:
        """The name of the model that a frame is for; None where none of that name is there."""
        if not self._several:
            return ONLY
        name = frame.task.get(MODEL) or self._default
        return name if isinstance(name, str) and name in self.recipes else None

    def of(self, frame: Frame) -> str:
        """The same.

        Raises:
            UnknownModel: none of that name is there; the message lists those that are, the nearest first.
        """
        name = self.named(frame)
        if name is None:
            raise UnknownModel(self._no_model(frame.task.get(MODEL)))
        return name

    def spec(self, said: Mapping[str, PolicySpec | None]) -> PolicySpec | None:
        """What all of them are to robots, from what each says of itself.

        They may be normalised with statistics of their own: each applies its own.

        Raises:
            InterfaceValidationError: two of them differ in what a robot must know; every difference is named.
        """
        (first, spec), *others = said.items()
        for name, other in others:
            differences = _differences(spec, other)
            if differences:
                listed = "; ".join(differences)
                raise InterfaceValidationError(
                    f"models {first} (here) and {name} (there) cannot share replicas, as a server has one spec: "
                    f"{listed}"
                )
        if spec is None or not self._several:
            return spec
        keys = [key for key in spec.required_task_keys if key != MODEL]
        return replace(
            spec,
            name="+".join(said),
            required_task_keys=keys if self._default else [*keys, MODEL],
            normalisation=_digest({name: each.normalisation for name, each in said.items() if each is not None}),
        )

    def _no_model(self, name: object) -> str:
        if not self._several:
            return f"no model {name!r}: there is one policy, and no models"
        if not name:
            return f"the request names no model in its task ({MODEL!r}); there are: {', '.join(self.recipes)}"
        asked = str(name)[:MAX_NAME]  # whoever sent it may have sent much
        known = sorted(self.recipes, key=lambda one: -SequenceMatcher(None, one, asked).ratio())
        return f"no model {name!r:.{MAX_NAME}}; there are: {', '.join(known)}"


class Whereabouts:
    """Which replica was last heard to have which models."""

    def __init__(self) -> None:
        self._there: dict[str, frozenset[str]] = {}
        self._lock = threading.Lock()

    def has(self, name: str) -> bool:
        """Whether one has this model, as far as is known."""
        with self._lock:
            return any(name in there for there in self._there.values())

    def learn(self, replica: str, there: Iterable[str]) -> None:
        """What a replica says that it has."""
        with self._lock:
            self._there[replica] = frozenset(there)

    def lost(self, name: str) -> None:
        """It is not where it was; replicas of which nothing else is known are forgotten."""
        with self._lock:
            left = {replica: there - {name} for replica, there in self._there.items()}
            self._there = {replica: there for replica, there in left.items() if there}


def _differences(here: PolicySpec | None, there: PolicySpec | None) -> list[str]:
    if here is None or there is None:
        return [] if here is there else ["only one of them has a spec"]
    found = policy_differences(here, replace(there, normalisation=here.normalisation))
    ours, theirs = here.required_task_keys, there.required_task_keys
    return found if ours == theirs else [*found, f"task entries: {ours!r} here, {theirs!r} there"]


def _digest(parts: Mapping[str, str]) -> str:
    """What changes when the statistics of one of them do."""
    if not any(parts.values()):
        return ""
    text = "\n".join(f"{name} {part}" for name, part in parts.items())
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def _name(name: object) -> str:
    if not isinstance(name, str) or not name or len(name) > MAX_NAME or not name.isprintable():
        raise UsageError(f"models: {name!r} is no name: up to {MAX_NAME} letters are")
    return name


def _recipe(of: Any, where: str) -> Recipe:
    """The policy's.

    Raises:
        UsageError: it has no name.
    """
    if isinstance(of, str):
        return Recipe(of)
    if not isinstance(of, Mapping) or not isinstance(of.get("name"), str):
        raise UsageError(f"{where}: which policy? its name, or a mapping of name and its options, got {of!r}")
    return Recipe(of["name"], {key: value for key, value in of.items() if key != "name"})
