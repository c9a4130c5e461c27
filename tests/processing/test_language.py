"""Tasks become prompts and tokens."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from chunkwise.processing.errors import ProcessingError
from chunkwise.processing.language import MASK, TOKENS, NewLine, StateInPrompt, Tokenise

STATE = np.array([[-1.0, 0.0, 0.999]], np.float32)


def letters(texts: list[str], *, max_length: int, **told: Any) -> Any:
    tokens = np.zeros((len(texts), max_length), np.int32)
    for row, text in zip(tokens, texts, strict=True):
        row[: len(text)] = [ord(letter) for letter in text[:max_length]]
    return tokens, (tokens > 0).astype(np.int64)


@pytest.mark.parametrize(
    ("task", "made"), [("a", "a\n"), ("a\n", "a\n"), ("a\n\n", "a\n\n"), (["a", "b\n"], ["a\n", "b\n"])]
)
def test_a_task_ends_with_a_new_line(task: Any, made: Any) -> None:
    assert NewLine()({"task": task})["task"] == made
    assert NewLine()({}) == {}


def test_a_state_becomes_words() -> None:
    made = StateInPrompt(width=4)({"observation.state": STATE, "task": [" pick_it\nup "]})
    assert made["task"] == ["Task: pick it up, State: 0 128 255 128;\nAction: "]
    assert StateInPrompt(width=2)({"observation.state": STATE, "task": "x"})["task"][0].count(" ") > 4


def test_a_task_becomes_tokens() -> None:
    made = Tokenise(letters, "letters", max_length=4)({"task": "ab"})
    assert made[TOKENS].tolist() == [[97, 98, 0, 0]] and made[TOKENS].dtype == np.int64
    assert made[MASK].tolist() == [[True, True, False, False]] and made[MASK].dtype == np.bool_


@pytest.mark.parametrize(
    ("step", "batch", "words"),
    [
        (Tokenise(letters), {}, "'task' must be a text, or a list of them; got None"),
        (Tokenise(letters), {"task": []}, "must be a text"),
        (Tokenise(letters), {"task": [1]}, "must be a text"),
        (
            Tokenise(lambda texts, **_: ([[0.5]], [[1]]), "mine"),
            {"task": "a"},
            "'mine' must make whole numbers .* it made float64",
        ),
        (Tokenise(lambda texts, **_: ([1], [1])), {"task": "a"}, "whole numbers"),
        (Tokenise(lambda texts, **_: ([[1]], [[1, 1]])), {"task": "a"}, "a mask like it"),
        (NewLine(), {"task": [1]}, "must be a text"),
        (StateInPrompt(), {"task": "a"}, "observation.state is missing"),
        (StateInPrompt(), {"observation.state": STATE[0], "task": "a"}, "1 tasks for"),
        (StateInPrompt(), {"observation.state": STATE, "task": ["a", "b"]}, "2 tasks for"),
        (StateInPrompt(), {"observation.state": STATE}, "'task' must be"),
    ],
)
def test_what_is_no_task_is_refused(step: Any, batch: Any, words: str) -> None:
    with pytest.raises(ProcessingError, match=words):
        step(batch)
