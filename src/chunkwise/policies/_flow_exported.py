"""Velocity fields as networks of an exported directory: no autograd, and no torch, where they run.

::

    chunkwise.json               what there is
    encode.onnx                  where there is one: an observation to what the others know of it
    velocity.onnx                x, t, known ... -> velocity
    pull.onnx                    x, t, target, weights, known ... -> velocity, error, pulled
    config.json, policy_*.json   LeRobot's own, as ever

or the same with ``.xml`` and ``.bin``, or ``.pt2``.  Inputs and outputs stand in this order, whatever their names.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chunkwise import plugins
from chunkwise.contract import InterfaceValidationError
from chunkwise.engines import Engine, TensorSpec
from chunkwise.engines._exported import FORMATS, read_exported

Array = NDArray[Any]
POLICY_TYPE = "flow"
ENCODE, VELOCITY, PULL = "encode", "velocity", "pull"
"""The networks' names; each file has its format's suffix."""
GIVEN = {VELOCITY: ("x", "t"), PULL: ("x", "t", "target", "weights")}
"""What each takes before what is known of the observation."""
MADE = {VELOCITY: ("velocity",), PULL: ("velocity", "error", "pulled")}
"""What each answers."""


class ExportedVelocity:
    """A velocity field as two or three networks; see `chunkwise.policies._flow_sampling.Velocity`.

    Args:
        folder: the exported directory.
        device: ``cpu``, ``cuda``, ``cuda:1``, ``mps`` or ``auto``.
        threads: of the processor that a call may use.

    Attributes:
        engine: the name of what runs it.

    Raises:
        FileNotFoundError: there is no such directory, or a file of it is missing.
        InterfaceValidationError: it is no flow, or not what was exported.
        DeviceError: the device is not there.
        MissingExtra: the engine's runtime is not installed.
    """

    def __init__(self, folder: str | Path, *, device: str = "cpu", threads: int = 1) -> None:
        exported = read_exported(folder)
        if exported.policy_type != POLICY_TYPE:
            raise InterfaceValidationError(f"{folder} holds a policy of type {exported.policy_type!r}, no flow")
        exported.check()
        self.engine = exported.engine
        self.inputs: Mapping[str, TensorSpec] = exported.inputs
        suffix = Path(FORMATS[exported.format]).suffix
        self._networks: dict[str, Engine] = {}
        try:
            for name in (ENCODE, VELOCITY, PULL):
                path = exported.folder / f"{name}{suffix}"
                if path.name in exported.sha256 or name == VELOCITY:
                    self._networks[name] = _loaded(self.engine, path, device, threads)
            self.rows, self.dim, self.row_times = self._sizes()
            self.pulls = PULL in self._networks
        except BaseException:
            self.close()
            raise

    def condition(self, observation: Mapping[str, Array]) -> ExportedField:
        """The field for one observation; `encode` runs here, once."""
        if not self._networks:
            raise RuntimeError("no model is loaded: it was closed")
        known = [observation[name] for name in self.inputs]
        if ENCODE in self._networks:
            known = _run(self._networks[ENCODE], known)
        return ExportedField(self, self._networks, known)

    def close(self) -> None:
        for network in self._networks.values():
            network.close()
        self._networks = {}

    def _sizes(self) -> tuple[int, int, bool]:
        """Rows and numbers of a chunk, and whether each row has a flow time."""
        for name, before in GIVEN.items():
            network = self._networks.get(name)
            if network is not None and (
                len(network.inputs) < len(before) or len(network.outputs) != len(MADE[name])
            ):
                raise InterfaceValidationError(
                    f"network {name!r} must take {', '.join(before)} and answer {', '.join(MADE[name])}; it takes "
                    f"{', '.join(network.inputs)} and answers {', '.join(network.outputs)}"
                )
        x, t = [*self._networks[VELOCITY].inputs.values()][:2]
        if len(x.shape) != 3 or x.shape[1] is None or x.shape[2] is None or len(t.shape) != 2:
            raise InterfaceValidationError(
                f"a velocity takes x (1, rows, dim) and t (1, 1) or (1, rows), got {x.shape} and {t.shape}"
            )
        return x.shape[1], x.shape[2], t.shape[1] == x.shape[1] > 1


class ExportedField:
    """A velocity field and its observation; see `chunkwise.sampling.flow.Field`."""

    def __init__(self, owner: ExportedVelocity, networks: Mapping[str, Engine], known: list[Array]) -> None:
        self._owner, self._networks, self._known = owner, networks, known

    def velocity(self, x: Array, tau: float | Array) -> Array:
        (velocity,) = _run(self._networks[VELOCITY], [x, self._times(x, tau), *self._known])
        return velocity

    def pull(self, x: Array, tau: float, target: Array, weights: Array) -> tuple[Array, Array, Array]:
        given = [x, self._times(x, tau), target, weights, *self._known]
        velocity, error, pulled = _run(self._networks[PULL], given)
        return velocity, error, pulled

    def _times(self, x: Array, tau: float | Array) -> Array:
        shape = (len(x), self._owner.rows if self._owner.row_times else 1)
        return np.array(np.broadcast_to(np.asarray(tau, np.float32), shape))


def _loaded(engine: str, path: Path, device: str, threads: int) -> Engine:
    made: Engine = plugins.load("engines", engine)(threads=threads)
    made.load(str(path), device)
    return made


def _run(network: Engine, tensors: list[Array]) -> list[Array]:
    return [*network.run(dict(zip(network.inputs, tensors, strict=True))).values()]
