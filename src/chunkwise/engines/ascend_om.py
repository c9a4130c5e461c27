"""Compiled ``.om`` networks on an Ascend NPU: ACT, and pi0.5 in two stages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chunkwise.engines import Precision, TensorSpec
from chunkwise.engines._ascend import Card, OmModel
from chunkwise.engines._compiled import ACTION, BackendError, PolicyConfig, read_policy
from chunkwise.engines._compiled_act import ActInputs, chunk_of
from chunkwise.engines._compiled_pi05 import Pi05
from chunkwise.engines._devices import choose_compiled
from chunkwise.engines._families import NOISE
from chunkwise.engines._network import Network
from chunkwise.engines._om_manifest import read_manifest

__all__ = ["AscendOm"]

NAME = "ascend_om"
Array = NDArray[Any]
Noise = Callable[[tuple[int, ...]], Array]


class AscendOm(Network):
    """A policy's directory with ``config.om.json``, run through Huawei's ACL.

    Neither torch nor the policy's weights are needed.

    Args:
        threads: of the processor, which computes nothing here.
        dtype: ``float32``, what goes in and comes out; the files say what is computed in.
        seed: of the noise that a pi0.5 chunk begins as, drawn anew from it in every call; None for other noise
            each time.  The input ``noise`` replaces it.

    Attributes:
        policy_type: the family; "" before `load`.
        backend_type: ``ascend_om``.
    """

    precisions = ("float32",)
    backend_type = NAME

    def __init__(self, *, threads: int = 1, dtype: Precision = "float32", seed: int | None = None) -> None:
        super().__init__(threads=threads, dtype=dtype)
        self._seed = seed
        self._opened = ExitStack()
        self._stages: _Act | _TwoStages | None = None
        self.policy_type = ""

    def load(self, path: str, device: str = NAME) -> None:
        super().load(path, device)

    def _open(self, path: str, device: str) -> str:
        chosen = choose_compiled(device, NAME, [str(number) for number in range(64)])
        policy = read_policy(path, NAME)
        files = read_manifest(policy.folder, NAME, policy.policy_type).files(NAME, policy.policy_type)
        with ExitStack() as stack:  # what was opened is closed where the rest fails
            card = Card(int(chosen.partition(":")[2] or 0))
            stack.callback(card.close)
            models = []
            for file in files.values():
                models.append(OmModel(card, file))
                stack.callback(models[-1].close)
            stages = (_Act if policy.policy_type == "act" else _TwoStages)(policy, *models)
            stack.callback(card.use)  # first of all: who closes may be another thread
            self._opened = stack.pop_all()
        self._card, self._stages = card, stages
        self.policy_type, self.inputs, self.outputs = policy.policy_type, stages.inputs, stages.outputs
        return chosen

    def _call(self, tensors: Mapping[str, Array]) -> dict[str, Array]:
        assert self._stages is not None
        self._card.use()
        return {ACTION: self._stages(tensors, self._noise)}

    def _release(self) -> None:
        self._stages = None
        self.policy_type = ""
        self._opened.close()

    def _noise(self, shape: tuple[int, ...]) -> Array:
        return np.random.default_rng(self._seed).standard_normal(shape).astype(np.float32)


class _Act:
    """One pass of one network."""

    def __init__(self, policy: PolicyConfig, model: OmModel) -> None:
        self._model, self._dim = model, policy.action_dim
        self._inputs = ActInputs(policy, [slot.name for slot in model.inputs])
        self.inputs = self._inputs.specs
        wanted, found = self._inputs.shapes, [slot.shape for slot in model.inputs]
        if wanted != found:
            taken, given = ", ".join(map(str, model.inputs)), ", ".join(map(str, self.inputs))
            raise BackendError(
                f"the network takes {taken or 'nothing'}; the policy has {given}, of {wanted}, in this order: "
                "say the network's as compiled_runtime_input_order in config.json"
            )
        model.bind()
        rows = self._chunk([np.zeros(slot.shape) for slot in model.outputs]).shape[1]
        self.outputs = {ACTION: TensorSpec((1, rows, self._dim), "float32")}

    def __call__(self, tensors: Mapping[str, Array], noise: Noise) -> Array:
        for place, array in enumerate(self._inputs.arrays(tensors)):
            self._model.write(place, array)
        self._model.execute()
        return self._chunk([self._model.read(0)])

    def _chunk(self, outputs: list[Array]) -> Array:
        return chunk_of(outputs, NAME, self._dim)


class _TwoStages:
    """What the first network answers stays on the card, where the second reads it in every step."""

    def __init__(self, policy: PolicyConfig, vlm: OmModel, expert: OmModel) -> None:
        self._vlm, self._expert = vlm, expert
        self._pi05 = Pi05(policy, (vlm.inputs, vlm.outputs), (expert.inputs, expert.outputs))
        self.inputs, self.outputs = self._pi05.specs, self._pi05.answer
        vlm.bind()
        expert.bind({place: vlm.given[output] for place, output in self._pi05.shared.items()})

    def __call__(self, tensors: Mapping[str, Array], noise: Noise) -> Array:
        pi05, expert = self._pi05, self._expert
        for place, array in enumerate(pi05.arrays(tensors)):
            self._vlm.write(place, array)
        self._vlm.execute()
        expert.write(pi05.x_t, tensors[NOISE] if NOISE in tensors else noise(pi05.noise))
        time = expert.inputs[pi05.time]
        for step, now in enumerate(pi05.times):
            if step:
                expert.taken[pi05.x_t].take(expert.given[0])
            expert.write(pi05.time, np.full(time.shape, now, time.dtype))
            expert.execute()
        return pi05.chunk(expert.read(0))
