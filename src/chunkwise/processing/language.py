"""The steps that LeRobot's policies read their task behind: prompts and tokens.

Source:
    ``lerobot/processor/tokenizer_processor.py`` and the ``processor_*.py`` of SmolVLA, pi0, pi0_fast and pi05 of
    https://github.com/huggingface/lerobot, 0.4.4.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from chunkwise.processing.errors import ProcessingError
from chunkwise.processing.pipeline import Batch
from chunkwise.processing.steps import STATE, TASK

TOKENS: Final = "observation.language.tokens"
MASK: Final = "observation.language.attention_mask"


class Tokenizer(Protocol):
    """Texts to numbers, as the policy's language model was trained with."""

    def __call__(
        self, texts: list[str], *, max_length: int, padding: str, padding_side: str, truncation: bool
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Tokens ``(len(texts), length)``, whole numbers, and which of them are not padding."""


@dataclass(frozen=True)
class NewLine:
    """Tasks end with a new line, which the language model was trained to begin after.

    Attributes:
        kind: ``smolvla_new_line_processor`` or ``pi0_new_line_processor``.
    """

    kind: str = "pi0_new_line_processor"

    def __call__(self, batch: Batch) -> Batch:
        task = batch.get(TASK)
        if isinstance(task, str):
            return {**batch, TASK: task.removesuffix("\n") + "\n"}
        if isinstance(task, list):
            return {**batch, TASK: [text.removesuffix("\n") + "\n" for text in _tasks(batch, TASK, self.kind)]}
        return batch

    def inverse(self) -> None:
        return None

    def describe(self) -> str:
        return "the task ends with a new line"


@dataclass(frozen=True)
class StateInPrompt:
    """The state, already within -1 to 1, becomes words of the task: a number from 0 to 255 for each column.

    Attributes:
        kind: LeRobot's name of it, of pi05's or of pi0_fast's.
        width: columns, of which those that the state does not have are zero.
        ending: of the prompt.
        task_key: where the task stands.
    """

    kind: str = "pi05_prepare_state_tokenizer_processor_step"
    width: int = 32
    ending: str = ";\nAction: "
    task_key: str = TASK

    def __call__(self, batch: Batch) -> Batch:
        if STATE not in batch:
            raise ProcessingError(f"{self.kind}: {STATE} is missing, and the policy reads it in its prompt")
        state = np.asarray(batch[STATE])
        tasks = _tasks(batch, self.task_key, self.kind)
        if state.ndim != 2 or len(state) != len(tasks):
            raise ProcessingError(f"{self.kind}: {len(tasks)} tasks for {STATE} of shape {state.shape}")
        padded = np.pad(state, ((0, 0), (0, max(0, self.width - state.shape[1]))))
        bins = np.digitize(padded, np.linspace(-1, 1, 257)[:-1]) - 1
        cleaned = [text.strip().replace("_", " ").replace("\n", " ") for text in tasks]
        words = [" ".join(map(str, row)) for row in bins.tolist()]
        prompts = [f"Task: {text}, State: {row}{self.ending}" for text, row in zip(cleaned, words, strict=True)]
        return {**batch, self.task_key: prompts}

    def inverse(self) -> None:
        return None

    def describe(self) -> str:
        return f"the task becomes a prompt with {self.width} numbers of the state"


@dataclass(frozen=True)
class Tokenise:
    """The task becomes tokens, int64, and their mask, bool.

    Attributes:
        tokenizer: does it.
        name: of the tokeniser, as the file has it.
        max_length, padding, padding_side, truncation: what it is told.
        task_key: where the task stands.
    """

    kind: ClassVar[str] = "tokenizer_processor"
    tokenizer: Tokenizer
    name: str = ""
    max_length: int = 512
    padding: str = "max_length"
    padding_side: str = "right"
    truncation: bool = True
    task_key: str = TASK

    def __call__(self, batch: Batch) -> Batch:
        texts = _tasks(batch, self.task_key, self.kind)
        found, seen = self.tokenizer(
            texts,
            max_length=self.max_length,
            padding=self.padding,
            padding_side=self.padding_side,
            truncation=self.truncation,
        )
        tokens, mask = np.asarray(found), np.asarray(seen)
        rows = tokens.ndim == 2 and len(tokens) == len(texts) and mask.shape == tokens.shape
        if not rows or tokens.dtype.kind not in "iu":
            raise ProcessingError(
                f"{self.kind}: the tokeniser {self.name!r} must make whole numbers (texts, length) and a mask "
                f"like it; of {len(texts)} texts it made {tokens.dtype} {tokens.shape}, mask {mask.shape}"
            )
        return {**batch, TOKENS: tokens.astype(np.int64), MASK: mask.astype(np.bool_)}

    def inverse(self) -> None:
        return None

    def describe(self) -> str:
        return f"the task becomes at most {self.max_length} tokens of {self.name or 'a tokeniser of yours'}"


def _tasks(batch: Batch, key: str, kind: str) -> list[str]:
    found = batch.get(key)
    texts = [found] if isinstance(found, str) else found
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise ProcessingError(f"{kind}: {key!r} must be a text, or a list of them; got {found!r:.80}")
    return texts
