"""A network between a preprocessor and a postprocessor, as a policy of a robot."""

from __future__ import annotations

import copy
import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from chunkwise.chunking.weights import prefix_weights
from chunkwise.contract import (
    ActionChunk,
    BindingError,
    ChunkRequest,
    Frame,
    InterfaceValidationError,
    PolicySpec,
    RobotSpec,
)
from chunkwise.contract.errors import nearest
from chunkwise.engines._families import DELAY, PREFIX, PREFIX_WEIGHTS
from chunkwise.policies._checkpoint import ACTION, POST, Checkpoint
from chunkwise.policies._coordinator import InferenceCoordinator
from chunkwise.policies._stages import (
    Float32,
    Limits,
    Observation,
    SecondStage,
    TensorPostprocessor,
    TensorPreprocessor,
    Tensors,
)
from chunkwise.policies._wiring import Wiring, Wishes, wire
from chunkwise.processing.errors import ProcessingError
from chunkwise.processing.pipeline import Pipeline
from chunkwise.processing.statistics import RangeMonitor, Statistics
from chunkwise.processing.steps import Normalise

log = logging.getLogger("chunkwise.policies")
STILL = 1e-6
"""A column of actions did not vary in training if it changes less than this between the network's -1 and 1."""
PROMPT = "prompt"
"""The entry of ``frame.task`` that says what is to be done."""


class TensorPolicy:
    """Frames into an :class:`InferenceCoordinator`, its actions out as chunks.

    Nothing of LeRobot's queues and ensembles is used: what runs when is the strategy's matter, and the whole chunk
    goes to it.  A policy that reads a history has one for each session; it is of the frames that were asked about.

    Args:
        checkpoint: the policy's directory.
        engine: its network, loaded; here or elsewhere.
        wishes: which part of a robot is which feature.
        preprocessor: of what kind its first stage is.
        task: what is to be done, where the frame does not say.
        control_hz: the rate of its rows.
        n_action_steps: rows of a chunk that are used; 0 for all.
        clamp: keep actions within the range of the training data.
        relative: components whose actions count from where the component is when it is observed.

    Attributes:
        coordinator: the three pieces.
        monitor: counts states and actions beyond the training data.
        spec: what the policy needs and answers; None where that takes a robot, see `meet`, and none was met.

    Raises:
        InterfaceValidationError: the pieces do not fit together, or an option fits none of them.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        engine: SecondStage,
        wishes: Wishes,
        *,
        preprocessor: type[TensorPreprocessor] = TensorPreprocessor,
        task: str = "",
        control_hz: float | None = None,
        n_action_steps: int = 0,
        clamp: bool = False,
        relative: Sequence[str] = (),
    ) -> None:
        processors = checkpoint.processors()
        _in_known_units(processors.post, checkpoint)
        limits = _trained_limits(processors.statistics, checkpoint) if clamp else None
        pre = preprocessor(checkpoint, preprocessor=processors.pre)
        post = TensorPostprocessor(postprocessor=processors.post, clamp_limits=limits)
        self.coordinator = InferenceCoordinator(preprocessor=pre, engine=engine, postprocessor=post)
        self.monitor = RangeMonitor(processors.statistics)
        self._digest = processors.digest
        self._checkpoint, self._wishes, self._task, self._hz = checkpoint, wishes, task, control_hz
        self._rows = _rows(engine, checkpoint, n_action_steps)
        self._relative = tuple(relative)
        self._normalised = _taken_back(processors.post, checkpoint) if PREFIX in engine.reads else None
        self._history = _History(checkpoint.n_obs_steps)
        self._said: list[str] = []  # of all sessions
        self._shared = False
        self._wiring: Wiring | None = None
        self.spec: PolicySpec | None = None
        for warning in processors.warnings:
            log.warning("%s: %s", checkpoint.folder, warning)
        self._wire(None)
        self._remembers = checkpoint.n_obs_steps > 1 or not wishes.kinds_said or self._wiring is None

    def meet(self, robot: RobotSpec) -> None:
        """Take from the robot what nobody said: which components the state and the actions are, in its order.

        Raises:
            BindingError: they do not fit; the message names both sides, and the option that tells.
        """
        self._wire(robot)

    def infer(self, frame: Frame, request: ChunkRequest) -> ActionChunk:
        """The whole chunk, from the step of the frame on; its meta has the milliseconds of each stage.

        Raises:
            InterfaceValidationError: the frame lacks what the policy reads, or has it otherwise.
        """
        if self._wiring is None:
            raise InterfaceValidationError(
                f"policy {self._checkpoint.policy_type!r} does not know which robot it drives: say "
                "--policy.state NAME,NAME and --policy.actions NAME:DIM,NAME:KIND:DIM"
            )
        seen = self._wiring.observation(frame)
        self._watch(seen)
        observation = {**seen, "task": self._prompt(frame)} if self._checkpoint.language else seen
        past = self._history.at(request.request_step, observation)
        if self._history.gap > 1 and not self._said:
            self._said.append("gap")
            log.warning(
                "%s reads consecutive frames, and is asked every %d steps: it sees motion as if it were faster",
                self._checkpoint.policy_type,
                self._history.gap,
            )
        anchor = self._anchor(frame, self._wiring)
        result = self.coordinator(past, {**self._beside(request), **self._plan(request, anchor)})
        rows = result.action[: self._rows]
        self._watch({ACTION: rows})
        meta = {
            "preprocess_ms": result.preprocess_latency_ms,
            "inference_ms": result.inference_latency_ms,
            "postprocess_ms": result.postprocess_latency_ms,
        }
        return ActionChunk(rows.astype(np.float64) + anchor, meta=meta)

    def warmup(self) -> None:
        """Let the network run on nothing in particular: its first calls are slow."""
        self.coordinator.warmup()

    def session(self) -> Self:
        """Another conversation with the same weights: a history and a robot of its own.

        Itself where calls leave nothing behind: it reads one observation, and was told what state and actions are,
        with their kinds.
        """
        if not self._remembers:
            return self
        other = copy.copy(self)
        other._history = _History(self._checkpoint.n_obs_steps)
        other._shared = True
        return other

    def reset(self) -> None:
        """Forget the history."""
        self._history.clear()

    def close(self) -> None:
        """Let the network go; a further session leaves it to the first one."""
        if not self._shared:
            self.coordinator.close()

    def _beside(self, request: ChunkRequest) -> Tensors:
        """What else the network is to be given; nothing, but in a subclass."""
        return {}

    def _plan(self, request: ChunkRequest, anchor: NDArray[np.float64]) -> Tensors:
        """The running plan as the network has actions: counted from the anchor, and normalised.

        Rows stay those of their steps: what the anchor was when the plan was made does not matter any more.
        """
        if self._normalised is None or request.prefix is None or not len(request.prefix):
            return {}
        delay = request.latency_steps if request.inference_delay is None else request.inference_delay
        rows = request.prefix[: self.coordinator.chunk_size] - anchor
        weights = request.prefix_weights
        if weights is None:
            weights = prefix_weights(delay, len(rows))
        return {
            PREFIX: self._normalised(rows)[None],
            PREFIX_WEIGHTS: weights[None, : len(rows)].astype(np.float32),
            DELAY: np.array([delay], np.int64),
        }

    def _anchor(self, frame: Frame, wiring: Wiring) -> NDArray[np.float64]:
        """What is added to every row (dim,): the measured place of components whose actions are relative to it."""
        anchor = np.zeros(sum(output.dim for output in wiring.outputs))
        start = 0
        for output in wiring.outputs:
            if output.target in self._relative:
                place = np.ravel(frame.state[output.target])
                if len(place) != output.dim:
                    raise InterfaceValidationError(
                        f"relative: {output.target!r} is observed as {len(place)} numbers, its actions have "
                        f"{output.dim}"
                    )
                anchor[start : start + output.dim] = place
            start += output.dim
        return anchor

    def _wire(self, robot: RobotSpec | None) -> None:
        inputs = self.coordinator.preprocessor.inputs
        self._wiring = wire(self._checkpoint, inputs, self._wishes, robot)
        if self._wiring is not None:
            _all_anchored(self._relative, self._wiring)
        self.spec = None if self._wiring is None else self._described(self._wiring)

    def _described(self, wiring: Wiring) -> PolicySpec:
        checkpoint, coordinator = self._checkpoint, self.coordinator
        return PolicySpec(
            checkpoint.policy_type,
            list(dict.fromkeys(wiring.cameras.values())),
            list(dict.fromkeys(key for keys in wiring.states.values() for key in keys)),
            [PROMPT] if checkpoint.language and not self._task else [],
            list(wiring.outputs),
            {"policy_type": checkpoint.policy_type, "engine": coordinator.backend_type},
            action_horizon=self._rows,
            control_hz=self._hz,
            supports_prefix=self._normalised is not None,
            images=wiring.image_rules(any_size=checkpoint.language),
            normalisation=self._digest,
        )

    def _prompt(self, frame: Frame) -> str:
        said = frame.task.get(PROMPT) or self._task
        if not isinstance(said, str) or not said:
            raise InterfaceValidationError(
                f"frame.task has no {PROMPT!r}, and the policy reads one: "
                "let the robot say it, or set --policy.task"
            )
        return said

    def _watch(self, values: Mapping[str, NDArray[Any]]) -> None:
        for finding in self.monitor.check({name: one for name, one in values.items() if one.ndim <= 2}):
            log.warning("%s: %s", self._checkpoint.policy_type, finding)


class _History:
    """The last observations of one session, the newest last; asking again about a step changes nothing.

    Attributes:
        gap: steps between the newest two; 0 where there is one, or no more are kept.
    """

    def __init__(self, length: int) -> None:
        self._seen: deque[Observation] = deque(maxlen=max(length, 1))
        self._step: int | None = None
        self.gap = 0

    def at(self, step: int, observation: Observation) -> list[Observation]:
        if self._step is not None and step < self._step:  # another episode, of which nobody told
            self.clear()
        if step == self._step:
            self._seen.pop()
        elif self._step is not None and self._seen.maxlen != 1:
            self.gap = step - self._step
        self._seen.append(observation)
        self._step = step
        return list(self._seen)

    def clear(self) -> None:
        self._seen.clear()
        self._step, self.gap = None, 0


def _in_known_units(post: Pipeline, checkpoint: Checkpoint) -> None:
    """LeRobot leaves actions as the network has them where their statistics are missing; a robot must not."""
    for step in post.steps:
        if isinstance(step, Normalise) and ACTION in step.unknown:
            raise InterfaceValidationError(
                f"{checkpoint.folder / POST} has no statistics of {ACTION!r}, which it is to bring back to the "
                "robot's units: save the processors with the data set's statistics (dataset_stats)"
            )


def _taken_back(post: Pipeline, checkpoint: Checkpoint) -> Callable[[NDArray[Any]], Float32] | None:
    """What makes of a robot's actions (rows, dim) the network's; None where that cannot be had.

    A column that did not vary in training is what it was then, wherever the plan has it.  The network has no say
    in it; and divided by a deviation of nothing, a millimetre would pull all the other columns away.
    """
    try:
        back = post.inverse()
    except ProcessingError as error:
        log.warning("%s: it does not continue the running plan: %s", checkpoint.folder / POST, error)
        return None
    dim = checkpoint.action_dim
    low, high = (post({ACTION: np.full((1, dim), end, np.float32)})[ACTION] for end in (-1, 1))
    still = np.abs(high - low) < STILL

    def normalised(rows: NDArray[Any]) -> Float32:
        made: Float32 = back({ACTION: np.where(still, low, rows).astype(np.float32)})[ACTION]
        return made

    return normalised


def _all_anchored(relative: Sequence[str], wiring: Wiring) -> None:
    """See that what actions are relative to is observed, and has as many numbers."""
    targets = [output.target for output in wiring.outputs]
    observed = [key for keys in wiring.states.values() for key in keys]
    for name in relative:
        if name not in targets:
            raise BindingError(
                f"relative: no action is for {name!r}{nearest(name, targets)}; there are: {', '.join(targets)}"
            )
        if name not in observed:
            raise BindingError(
                f"relative: the policy does not observe {name!r}{nearest(name, observed)}, which its actions are "
                f"to count from; it observes: {', '.join(observed) or 'nothing'}"
            )


def _rows(engine: SecondStage, checkpoint: Checkpoint, n_action_steps: int) -> int | None:
    """How many rows of a chunk are used; None for as many as there are, where the network does not say."""
    if engine.action_dim not in (None, checkpoint.action_dim):
        raise InterfaceValidationError(
            f"the network's actions have {engine.action_dim} numbers, those of {checkpoint.folder} have "
            f"{checkpoint.action_dim}: they are not of one policy"
        )
    most = engine.chunk_size
    if n_action_steps < 0 or (most is not None and n_action_steps > most):
        raise InterfaceValidationError(
            f"n_action_steps must be 1 to {most or 'as many as there are'}, or 0 for the whole chunk; "
            f"got {n_action_steps}"
        )
    return n_action_steps or most


def _trained_limits(statistics: Statistics, checkpoint: Checkpoint) -> Limits:
    try:
        low, high = statistics.need(ACTION, "min", "max")
    except InterfaceValidationError as error:
        raise InterfaceValidationError(
            f"clamp: {checkpoint.folder} does not say how far its data went: {error}"
        ) from error
    return {ACTION: (low, high)}
