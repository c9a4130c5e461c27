"""A second policy for when the first one has gone: another engine, another server, or one on the robot itself."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from chunkwise.contract import ActionChunk, ChunkRequest, Frame, InterfaceValidationError, PolicySpec, RobotSpec
from chunkwise.contract.specs import policy_differences
from chunkwise.policies import Answer, Policy, Recipe

__all__ = ["Fallback"]

log = logging.getLogger("chunkwise.policies")
_ALIKE = ("outputs", "output ", "control_hz", "state_names", "images")
"""What two policies for the same robot must not differ in."""


class Fallback:
    """Asks the first policy, and the second where the first one fails.

    The first is asked again with every request, so that it takes over as soon as it is back; a remote one fails at
    once between its tries.  When another policy takes over, the delay measured with the one before is forgotten.
    A policy that hangs is not left: give a remote one a time-out that leaves the plan time for the second.

    Args:
        policies: two or more, asked in this order: each a name, or a mapping of ``name`` and its options; in
            Python also a recipe or a policy.

    Attributes:
        using: which one answered last, from 0.
        switches: how often another one took over.

    Raises:
        InterfaceValidationError: they are not for the same robot: other components, kinds, joints or rate.
    """

    def __init__(self, *, policies: tuple[Any, ...]) -> None:
        if len(policies) < 2:
            raise InterfaceValidationError(f"a fallback takes two policies or more, got {len(policies)}")
        self._policies: list[Policy] = []
        self.using = self.switches = 0
        try:
            for policy in policies:
                self._policies.append(_made(policy))
            self._check()
        except BaseException:
            self.close()
            raise

    @property
    def spec(self) -> PolicySpec | None:
        """The first policy's, with whatever any of them reads; None while one has none."""
        specs = self._specs()
        first = specs[0] if specs else None
        if first is None or None in specs:
            return None
        known = [spec for spec in specs if spec is not None]
        return replace(
            first,
            required_image_keys=_union(spec.required_image_keys for spec in known),
            required_state_keys=_union(spec.required_state_keys for spec in known),
            required_task_keys=_union(spec.required_task_keys for spec in known),
            images={camera: rule for spec in known for camera, rule in spec.images.items()},
            state_names={key: names for spec in known for key, names in spec.state_names.items()},
            supports_prefix=all(spec.supports_prefix for spec in known),
        )

    def meet(self, robot: RobotSpec) -> None:
        """Tell every policy which robot it drives, and see that they answer for it alike.

        Raises:
            InterfaceValidationError: they do not.
        """
        for policy in self._policies:
            _call(policy, "meet", robot)
        self._check()

    def infer(self, frame: Frame, request: ChunkRequest) -> Answer:
        """The answer of the first policy that has one.

        Raises:
            Exception: what the last policy raises, when none has one.
        """
        for number, policy in enumerate(self._policies):
            try:
                answer = policy.infer(frame, request)
            except Exception as error:
                if number == len(self._policies) - 1:
                    raise
                if self.using == number:
                    log.warning("policy %d failed (%s); the next one takes over", number, error)
                continue
            if number != self.using:
                self.switches += 1
                self.using = number
                log.warning("policy %d answers from now on", number)
                if isinstance(answer, ActionChunk):
                    answer.meta["reconnected"] = True  # it takes another time to answer
            return answer
        raise AssertionError("unreachable")

    def warmup(self) -> None:
        """Warm every one up: the second has to be there at once."""
        for policy in self._policies:
            _call(policy, "warmup")

    def reset(self) -> None:
        """An episode ends, for all of them."""
        for policy in self._policies:
            _call(policy, "reset")

    def close(self) -> None:
        """Let go of all of them, whatever one of them raises.  Twice is fine."""
        with ExitStack() as closing:
            for policy in reversed(self._policies):
                closing.callback(_call, policy, "close")

    def _specs(self) -> list[PolicySpec | None]:
        return [getattr(policy, "spec", None) for policy in self._policies]

    def _check(self) -> None:
        first, *others = self._specs()
        for number, other in enumerate(others, 1):
            if first is None or other is None:
                continue
            differences = policy_differences(first, other)
            shared = {f"images[{camera!r}]" for camera in first.images.keys() & other.images.keys()}
            found = [
                text
                for text in differences
                if text.startswith(_ALIKE) and (not text.startswith("images") or text.partition(".")[0] in shared)
            ]
            if found:
                raise InterfaceValidationError(f"policy {number} is no fallback for policy 0: {'; '.join(found)}")


def _union(lists: Iterable[Sequence[str]]) -> list[str]:
    return list(dict.fromkeys(name for names in lists for name in names))


def _made(policy: Policy | Recipe | str | Mapping[str, Any]) -> Policy:
    if isinstance(policy, str):
        policy = Recipe(policy)
    elif isinstance(policy, Mapping):
        name = policy.get("name")
        if not isinstance(name, str):
            raise InterfaceValidationError(f"a policy is a name, or a mapping with one; got {dict(policy)}")
        policy = Recipe(name, {key: value for key, value in policy.items() if key != "name"})
    made: Policy = policy.make() if isinstance(policy, Recipe) else policy
    return made


def _call(policy: Policy, name: str, *arguments: Any) -> None:
    method = getattr(policy, name, None)
    if method is not None:
        method(*arguments)
