"""pi0.5 as two compiled networks: one reads pictures and words, the other makes actions of noise.

::

    pictures, tokens, masks, prefix mask ──▶ vlm ──▶ what it made of them ─┐
                                                                          ▼
    noise ──▶ x_t ──▶ action_expert(time) ──▶ x_t ──▶ action_expert ...──▶ chunk

Each pass of the second is one Euler step of the flow, of -1 / ``num_inference_steps``, from time 1 towards 0; the
step itself is in the network.  The state of the robot is among the words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chunkwise.contract import InterfaceValidationError
from chunkwise.engines import TensorSpec
from chunkwise.engines._compiled import ACTION, CONFIG, IMAGES, BackendError, PolicyConfig, Slot
from chunkwise.engines._families import NOISE, TOKENS, TOKENS_MASK
from chunkwise.engines._resizing import letterboxed

Array = NDArray[Any]
Float32 = NDArray[np.float32]
MASKED = -2.3819763e38
"""What hides one token from another, added before the softmax; openpi's number."""
TIME, X_T = "time", "x_t"
"""Inputs of the action expert; its others are the vlm's outputs."""
EMPTY = f"{IMAGES}empty_camera"


class Pi05:
    """What goes into the two networks, and what comes out, for one policy.

    Args:
        policy: what the configuration says.
        vlm: inputs and outputs of the first network.
        expert: of the second.

    Attributes:
        specs: what is taken, by LeRobot's names.
        answer: what is given.
        noise: (1, rows, columns) of what a chunk begins as.
        times: of the Euler steps.
        shared: input of the expert -> output of the vlm, by their places.
        time, x_t: places of the expert's own inputs.

    Raises:
        InterfaceValidationError: the networks do not fit the policy, or one another.
    """

    def __init__(
        self,
        policy: PolicyConfig,
        vlm: tuple[Sequence[Slot], Sequence[Slot]],
        expert: tuple[Sequence[Slot], Sequence[Slot]],
    ) -> None:
        self._dim = policy.action_dim
        self._cameras = _cameras(policy)
        self._vlm = vlm[0]
        self._image_tokens, length = self._prefix(vlm[0])
        steps = policy.whole("num_inference_steps", 10)
        self.times = [1.0 - step / steps for step in range(steps)]
        self.time, self.x_t, self.shared = _joined(vlm[1], expert[0])
        x_t = expert[0][self.x_t]
        if not expert[1] or (expert[1][0].shape, expert[1][0].dtype) != (x_t.shape, x_t.dtype):
            made = str(expert[1][0]) if expert[1] else "nothing"
            raise BackendError(f"the action expert must answer the next {X_T}, {x_t}; it answers {made}")
        if len(x_t.shape) != 3 or x_t.shape[0] != 1 or x_t.shape[2] < self._dim:
            raise BackendError(
                f"{X_T} must be (1, rows, columns) with {self._dim} columns at least, got {x_t}: "
                "the network is another policy's"
            )
        self.noise = x_t.shape
        self.specs = {
            name: TensorSpec((1, vlm[0][place].shape[1], None, None), "float32")
            for place, name in enumerate(self._cameras)
        }
        self.specs[TOKENS] = TensorSpec((1, length), "int64")
        self.specs[TOKENS_MASK] = TensorSpec((1, length), "bool")
        self.specs[NOISE] = TensorSpec(self.noise, "float32", optional=True)
        self.answer = {ACTION: TensorSpec((1, self.noise[1], self._dim), "float32")}

    def arrays(self, tensors: Mapping[str, Array]) -> list[Array]:
        """What the vlm takes, in its order: pictures, tokens, masks, and the mask of the whole prefix.

        Pictures are given as the preprocessor made them, in [0, 1], letterboxed where their size is another one.
        """
        made: list[Array] = []
        for name, slot in zip(self._cameras, self._vlm, strict=False):
            given = tensors[name]
            made.append(given if given.shape == slot.shape else letterboxed(given, *slot.shape[2:]))
        mask = tensors[TOKENS_MASK]
        return [*made, tensors[TOKENS], mask, prefix_mask(self._image_tokens, mask)]

    def chunk(self, x_t: Array) -> Float32:
        """The policy's chunk (1, rows, dim) in the networks' (1, rows, columns), which are more."""
        return np.asarray(x_t, np.float32)[:, :, : self._dim].copy()

    def _prefix(self, slots: Sequence[Slot]) -> tuple[int, int]:
        """How many tokens the pictures make, and how many the words; the vlm's inputs, checked."""
        cameras = len(self._cameras)
        if len(slots) != cameras + 3:
            raise BackendError(
                f"VLM input count mismatch: OM expects {len(slots)}, and the policy has {cameras + 3}: "
                f"{', '.join(self._cameras)}, tokens, masks and the prefix mask"
            )
        pictures, (tokens, mask, square) = slots[:cameras], slots[cameras:]
        for slot in pictures:
            if len(slot.shape) != 4 or slot.shape[0] != 1:
                raise BackendError(f"VLM input {slot} stands where a picture (1, C, H, W) is expected")
        if len(tokens.shape) != 2 or tokens.shape != mask.shape or tokens.shape[0] != 1:
            raise BackendError(f"VLM inputs {tokens} and {mask} must be tokens and their mask, both (1, L)")
        length, whole = tokens.shape[1], square.shape[-1] if square.shape else 0
        if square.shape != (1, 1, whole, whole) or square.dtype != "float32":
            raise BackendError(f"VLM input {square} must be the prefix mask, float32 (1, 1, S, S)")
        if whole <= length or (whole - length) % cameras:
            raise BackendError(
                f"of {whole} tokens of the prefix {length} are words; the other {whole - length} "
                f"are no whole number for each of {cameras} cameras"
            )
        return whole - length, length


def prefix_mask(image_tokens: int, words: Array) -> Float32:
    """Which token of the prefix sees which: 0 where both are there, :data:`MASKED` where one is padding.

    Args:
        image_tokens: of all pictures, which are always there, and come first.
        words: (1, L) bool, which of the word tokens are there.

    Returns:
        (1, 1, S, S) float32.
    """
    there = np.concatenate([np.ones(image_tokens, bool), words[0]])
    return np.where(np.logical_and.outer(there, there), np.float32(0), np.float32(MASKED))[None, None]


def _cameras(policy: PolicyConfig) -> list[str]:
    """Names of the pictures, in the policy's order."""
    names = [
        name for name, feature in policy.inputs.items() if feature.type == "VISUAL" or name.startswith(IMAGES)
    ]
    if not names:
        raise InterfaceValidationError(
            f"PI05 compiled policy config must define at least one VISUAL input feature: {policy.folder / CONFIG}"
        )
    empty = [name for name in names if name.startswith(EMPTY)]
    if empty:
        raise InterfaceValidationError(
            f"{policy.folder / CONFIG}: {', '.join(empty)} is no camera, and a compiled pi05 cannot be told so: "
            "compile it without (empty_cameras: 0)"
        )
    return names


def _joined(made: Sequence[Slot], taken: Sequence[Slot]) -> tuple[int, int, dict[int, int]]:
    """Places of ``time`` and ``x_t`` among the expert's inputs, and which output of the vlm each other one is."""
    places = {slot.name: place for place, slot in enumerate(taken)}
    for name in (TIME, X_T):
        if name not in places:
            there = ", ".join(places) or "none"
            raise BackendError(f"the action expert has no input {name!r}; it has: {there}")
    time, x_t = taken[places[TIME]], taken[places[X_T]]
    if time.dtype not in ("float16", "float32") or x_t.dtype != time.dtype:
        raise BackendError(f"{TIME} and {X_T} must both be float16 or both float32, got {time} and {x_t}")
    rest = [place for place, slot in enumerate(taken) if slot.name not in (TIME, X_T)]
    outputs = {slot.name: place for place, slot in enumerate(made)}
    if outputs.keys() == {taken[place].name for place in rest}:
        shared = {place: outputs[taken[place].name] for place in rest}
    elif len(rest) == len(made):
        shared = dict(zip(rest, range(len(made)), strict=True))
    else:
        raise BackendError(f"the vlm has {len(made)} outputs, and the action expert takes {len(rest)} of them")
    for place, output in shared.items():
        one, other = taken[place], made[output]
        if (one.shape, one.dtype) != (other.shape, other.dtype):
            raise BackendError(
                f"the action expert takes {one} where the vlm gives {other}: they are not of one model"
            )
    return places[TIME], places[X_T], shared
