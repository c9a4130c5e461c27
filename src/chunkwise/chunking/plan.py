"""The rows that will run if no further answer comes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from chunkwise.contract.layout import Array, Layout
from chunkwise.contract.rotations import interpolate


@dataclass(slots=True, frozen=True)
class Plan:
    """Rows on the absolute step axis; row ``i`` runs at step ``first_step + i``.

    Attributes:
        first_step: control step of row 0.
        rows: float64 ``(n, width)``, read only.
        chunk: number of the request whose answer joined last.
        observed_step: control step of the frame behind that answer; its arrival where the robot stood still
            until then.
        counts: how many predictions stand behind each row, for strategies that average; else None.
    """

    first_step: int
    rows: Array
    chunk: int
    observed_step: int
    counts: NDArray[np.int64] | None = None

    @property
    def end(self) -> int:
        """The first step that no row covers."""
        return self.first_step + len(self.rows)

    def since(self, step: int) -> Array:
        """The rows from `step` on, ``(n, width)``; none when the plan has run out."""
        return self.rows[max(step - self.first_step, 0) :]


def mix(layout: Layout, old: Array, new: Array, weight: Array) -> Array:
    """Rows between `old` (weight 0) and `new` (weight 1), each column as its command kind allows.

    Columns that do not blend (grippers, activations, custom kinds) are the new ones; rotations turn the
    shortest way; a cartesian value whose rotation is not declared is the new one.

    Args:
        layout: of the rows.
        old, new: float64 ``(n, width)``.
        weight: float64 ``(n,)`` in [0, 1], of the new rows.
    """
    mixed = new.copy()
    w = weight[:, None]
    for slot in layout.slots:
        if not slot.blends:
            continue
        columns = slot.columns
        if slot.rotation is not None:
            turn = slice(slot.start + 3, slot.stop)
            mixed[:, turn] = interpolate(old[:, turn], new[:, turn], w, slot.rotation)
            columns = slice(slot.start, slot.start + 3)
        elif slot.command.startswith("cartesian_pose"):
            continue
        mixed[:, columns] = old[:, columns] + w * (new[:, columns] - old[:, columns])
    return mixed
