"""Steps, one after the other: what becomes of a batch before a network, and of its answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from chunkwise.processing.errors import ProcessingError

Batch = dict[str, Any]
"""Arrays by LeRobot's names, ``observation.state``, ``observation.images.NAME``, ``action``; and ``task``, a text
or a list of one for each row."""


class Step(Protocol):
    """One change of a batch."""

    @property
    def kind(self) -> str:
        """Its name, LeRobot's where LeRobot has one."""

    def __call__(self, batch: Batch) -> Batch:
        """The batch after it; the one that is given, and its arrays, stay as they are.

        Raises:
            ProcessingError: the batch does not have what the step needs.
        """

    def inverse(self) -> Step | None:
        """The step that takes it back; None where there is none."""

    def describe(self) -> str:
        """What it does, in a line."""


class Pipeline:
    """Several steps as one.

    Args:
        steps: in their order.
        warnings: what a reader of them should know, such as what is left as it is for want of statistics.
    """

    def __init__(self, steps: Sequence[Step], warnings: Sequence[str] = ()) -> None:
        self.steps, self.warnings = tuple(steps), tuple(warnings)

    def __call__(self, batch: Batch) -> Batch:
        """The batch after every step.

        Raises:
            ProcessingError: a step lacks what it needs; the message names it.
        """
        for step in self.steps:
            batch = step(batch)
        return batch

    def describe(self) -> list[str]:
        """A line for each step, and one for each warning."""
        lines = [f"{number} {step.kind}: {step.describe()}" for number, step in enumerate(self.steps)]
        return lines + [f"! {warning}" for warning in self.warnings]

    def inverse(self) -> Pipeline:
        """What takes it back.

        Raises:
            ProcessingError: a step cannot be taken back.
        """
        steps = [(step.kind, step.inverse()) for step in reversed(self.steps)]
        missing = [kind for kind, step in steps if step is None]
        if missing:
            raise ProcessingError(f"these steps cannot be taken back: {', '.join(missing)}")
        return Pipeline([step for _, step in steps if step is not None])
