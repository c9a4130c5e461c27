"""A fleet as a file says it: which robots are driven by which policies, and where either runs."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from chunkwise.contract.errors import nearest
from chunkwise.options import UsageError, convert

NAME: Final = re.compile(r"[A-Za-z0-9][\w.-]{0,63}")
MOST: Final = 256
"""Robots of a fleet, and policies."""
TOP: Final = ("name", "policies", "robots")
OF_A_POLICY: Final = {
    "policy": Any,
    "models": Any,
    "resources": tuple[str, ...],
    "num_gpus": float,
    "num_cpus": float,
    "replicas": int,
    "most_replicas": int,
    "batch": int,
    "models_per_replica": int,
    "default_model": str,
}
OF_REPLICAS: Final = ("most_replicas", "batch", "models", "models_per_replica", "default_model")
OF_MODELS: Final = ("models_per_replica", "default_model")
OF_A_ROBOT: Final = {"node": str, "resources": tuple[str, ...], "model": str}
"""Beside the settings of a run."""
OF_THE_FLEET: Final = ("json",)
"""Settings of a run that a robot of a fleet cannot have."""


@dataclass(frozen=True, slots=True)
class PolicyPlan:
    """A policy of a fleet.

    Attributes:
        name: in the fleet.
        policy: a name as of ``chunkwise run --policy``, or a mapping with ``name`` and options; None for models.
        models: several of them by name, which share the replicas; a robot says which is its own.
        models_per_replica: as many at the same time; None for all.
        default_model: of robots that do not say; empty for none.
        resources: custom resources of its node, ``name`` or ``name=amount``.
        num_gpus, num_cpus: what Ray sets aside for each copy.
        replicas: copies that all its robots share; None for one of its own for every robot.
        most_replicas: as many while requests queue; None for always `replicas`.
        batch: requests in one call, at most; None leaves it to the replicas.
    """

    name: str
    policy: str | Mapping[str, Any] | None = None
    models: Mapping[str, Any] | None = None
    models_per_replica: int | None = None
    default_model: str = ""
    resources: tuple[str, ...] = ()
    num_gpus: float = 0.0
    num_cpus: float = 1.0
    replicas: int | None = None
    most_replicas: int | None = None
    batch: int | None = None

    def wanted(self) -> dict[str, float]:
        """Cores and GPUs of one copy, by Ray's names."""
        return {name: amount for name, amount in (("CPU", self.num_cpus), ("GPU", self.num_gpus)) if amount}

    def serving(self, address: str) -> dict[str, Any]:
        """The options of ``--policy replicas`` that say the same, on the cluster at an address."""
        said = {"replicas": self.replicas, "most_replicas": self.most_replicas, "batch": self.batch}
        what: dict[str, Any] = {"of": self.policy}
        if self.models is not None:
            what = {"models": self.models, "default_model": self.default_model}
            said["models_per_replica"] = self.models_per_replica
        options = {**what, "address": address, "resources": list(self.resources)}
        options |= {"num_gpus": self.num_gpus, "num_cpus": self.num_cpus}
        return options | {name: value for name, value in said.items() if value is not None}


@dataclass(frozen=True, slots=True)
class RobotPlan:
    """A robot of a fleet.

    Attributes:
        name: in the fleet.
        policy: what drives it.
        model: which of the policy's models; empty for the only one, or the default.
        node: where its control loop runs: address, host name or Ray's name of a node; empty for the one that has
            `resources`, or, without any, the computer that starts the fleet.
        resources: custom resources of that node, ``name`` or ``name=amount``.
        settings: of its run, but for the policy.
    """

    name: str
    policy: PolicyPlan
    model: str
    node: str
    resources: tuple[str, ...]
    settings: Mapping[str, Any]

    def run(self, address: str, url: str | None) -> dict[str, Any]:
        """What ``chunkwise run --config`` is told.

        Args:
            address: of the cluster.
            url: where its policy is served; None for one of its own.
        """
        plan, said = self.policy, dict(self.settings)
        if url is not None:
            return said | {"policy": {"name": url, "model": self.model} if self.model else url}
        given = said.get("worker") or "ray"
        worker = {"name": given} if isinstance(given, str) else dict(given)
        if worker["name"] == "ray":
            own = {"name": "ray", "address": address, "resources": list(plan.resources)}
            worker = {**own, "num_gpus": plan.num_gpus, "num_cpus": plan.num_cpus, **worker}
        return said | {"policy": plan.policy, "worker": worker}


@dataclass(frozen=True, slots=True)
class Fleet:
    """What a fleet's file says.

    Attributes:
        name: of the fleet.
        policies, robots: by name, in the file's order.
    """

    name: str
    policies: Mapping[str, PolicyPlan]
    robots: Mapping[str, RobotPlan]


def read_fleet(
    tree: Mapping[Any, Any], where: str, name: str, settings: Collection[str], check: Callable[[str, object], None]
) -> Fleet:
    """A fleet from what its file holds; what is not known is refused.

    Args:
        tree: the file's content.
        where: the file, for messages.
        name: of a fleet that does not say its own.
        settings: names of the settings of a run.
        check: raises a UsageError for a setting's value that cannot be.

    Raises:
        UsageError: a key that is not known, one that is missing, or a value that cannot be.
    """
    _require_known(tree, TOP, where)
    policies = {
        key: _policy(key, item, f"{where}: policies: {key}") for key, item in _named(tree, "policies", where)
    }
    robots = {
        key: _robot(key, item, f"{where}: robots: {key}", policies, settings, check)
        for key, item in _named(tree, "robots", where)
    }
    idle = policies.keys() - {robot.policy.name for robot in robots.values()}
    if idle:
        raise UsageError(f"{where}: policies: no robot is driven by {', '.join(sorted(idle))}")
    called = convert(tree.get("name") or name, str, f"{where}: name")
    if not NAME.fullmatch(called):
        raise UsageError(f"{where}: name: {called!r} is no name: letters, digits, '_', '.' and '-', 64 at most")
    return Fleet(called, policies, robots)


def _policy(name: str, tree: Mapping[Any, Any], where: str) -> PolicyPlan:
    _require_known(tree, OF_A_POLICY, where)
    said = {key: _converted(tree, key, hint, where) for key, hint in OF_A_POLICY.items() if _says(tree, key)}
    if "models" in said:
        _require_models(said, where)
    elif "policy" not in said:
        raise UsageError(f"{where}: which policy? `policy: NAME`, as for chunkwise run --policy")
    else:
        _require_policy(said["policy"], where)
    for key in OF_REPLICAS:
        if key in said and "replicas" not in said:
            raise UsageError(f"{where}: {key} is of replicas; say `replicas: 1` for a policy that robots share")
        if key in OF_MODELS and key in said and "models" not in said:
            raise UsageError(f"{where}: {key} is of a policy with models; this one has none")
    for key in ("replicas", "most_replicas", "batch", "models_per_replica"):
        if said.get(key, 1) < 1:
            raise UsageError(f"{where}: {key} must be at least 1, got {said[key]}")
    for key in ("num_gpus", "num_cpus"):
        if not 0 <= said.get(key, 0) < float("inf"):
            raise UsageError(f"{where}: {key} must be 0 or more, got {said[key]}")
    if said.get("most_replicas", said.get("replicas", 0)) < said.get("replicas", 0):
        raise UsageError(f"{where}: most_replicas must be at least replicas, got {said['most_replicas']}")
    return PolicyPlan(name, **said)


def _require_policy(policy: Any, where: str) -> None:
    if isinstance(policy, Mapping) and not isinstance(policy.get("name"), str):
        raise UsageError(f"{where}: policy must be a name, or a mapping with a name and options; got {policy!r}")
    if not isinstance(policy, (str, Mapping)):
        raise UsageError(f"{where}: which policy? a name, as for chunkwise run --policy; got {policy!r}")


def _require_models(said: Mapping[str, Any], where: str) -> None:
    models = said["models"]
    if "policy" in said:
        raise UsageError(f"{where}: policy or models, not both")
    if not isinstance(models, Mapping) or not 0 < len(models) <= MOST:
        raise UsageError(f"{where}: models must be a mapping of names to policies, {MOST} at most")
    for name, policy in models.items():
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise UsageError(
                f"{where}: models: {name!r} is no name: letters, digits, '_', '.' and '-', 64 at most"
            )
        _require_policy(policy, f"{where}: models: {name}")
    if said.get("models_per_replica", 1) > len(models):
        raise UsageError(f"{where}: models_per_replica: there are {len(models)}, got {said['models_per_replica']}")
    if "default_model" in said:
        _require_model(said["default_model"], models, f"{where}: default_model")


def _require_model(name: str, models: Mapping[str, Any], where: str) -> None:
    if name not in models:
        raise UsageError(f"{where}: no model {name!r}{nearest(name, models)}; there are: {', '.join(models)}")


def _robot(
    name: str,
    tree: Mapping[Any, Any],
    where: str,
    policies: Mapping[str, PolicyPlan],
    settings: Collection[str],
    check: Callable[[str, object], None],
) -> RobotPlan:
    for key in OF_THE_FLEET:
        if key in tree:
            raise UsageError(f"{where}: {key} is of the whole fleet: chunkwise up FLEET.yaml --{key} FILE")
    known = [*OF_A_ROBOT, *(key for key in settings if key not in OF_THE_FLEET)]
    _require_known(tree, known, where)
    for key, ask in (("robot", "as for chunkwise run --robot"), ("policy", "a name under `policies`")):
        if not _says(tree, key):
            raise UsageError(f"{where}: which {key}? `{key}: NAME`, {ask}")
    wanted = tree["policy"]
    if not isinstance(wanted, str) or wanted not in policies:
        there = ", ".join(policies) or "none"
        raise UsageError(f"{where}: no policy {wanted!r}{nearest(str(wanted), policies)}; there are: {there}")
    own = {key: item for key, item in tree.items() if key not in OF_A_ROBOT and key != "policy"}
    for key, value in own.items():
        try:
            check(key, value)
        except UsageError as error:
            raise UsageError(f"{where}: {error}") from None
    here = {key: _converted(tree, key, hint, where) for key, hint in OF_A_ROBOT.items() if _says(tree, key)}
    plan = policies[wanted]
    _require_place(plan, own.get("worker"), where)
    model = here.get("model", "")
    if plan.models is None and model:
        raise UsageError(f"{where}: model: policy {plan.name!r} has no models")
    if plan.models is not None and (model or not plan.default_model):
        if not model:
            raise UsageError(
                f"{where}: which model of {plan.name!r}? `model: NAME`; there are: {', '.join(plan.models)}"
            )
        _require_model(model, plan.models, f"{where}: model")
    return RobotPlan(name, plan, model, here.get("node", ""), here.get("resources", ()), own)


def _require_place(plan: PolicyPlan, worker: Any, where: str) -> None:
    """See that a robot's worker goes with where its policy is to run."""
    named = worker if worker is None or isinstance(worker, str) else worker.get("name")
    if named is None:
        return
    if plan.replicas is not None and named == "ray":
        raise UsageError(f"{where}: worker: policy {plan.name!r} has replicas, which this robot asks over a wire")
    if plan.replicas is None and named != "ray" and (plan.resources or plan.num_gpus):
        raise UsageError(
            f"{where}: worker: policy {plan.name!r} asks for resources of the cluster, and worker {named} has it "
            "on the robot's computer; leave one of them out"
        )


def _named(tree: Mapping[Any, Any], key: str, where: str) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    found = tree.get(key)
    if not isinstance(found, Mapping) or not found:
        raise UsageError(f"{where}: {key} must be a mapping of names to what each of them is")
    if len(found) > MOST:
        raise UsageError(f"{where}: {key}: {MOST} at most, got {len(found)}")
    for name, item in found.items():
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise UsageError(f"{where}: {key}: {name!r} is no name: letters, digits, '_', '.' and '-', 64 at most")
        if not isinstance(item, Mapping):
            raise UsageError(f"{where}: {key}: {name} must be a mapping, got {item!r}")
        yield name, item


def _require_known(tree: Mapping[Any, Any], known: Collection[str], where: str) -> None:
    for key in tree:
        if key not in known:
            there = ", ".join(known)
            raise UsageError(f"{where}: unknown key {key!r}{nearest(str(key), known)}; there are: {there}")


def _says(tree: Mapping[Any, Any], key: str) -> bool:
    return tree.get(key) is not None


def _converted(tree: Mapping[Any, Any], key: str, hint: Any, where: str) -> Any:
    value = tree[key]
    return value if hint is Any else convert(value, hint, f"{where}: {key}")
