"""A policy by name: what can be written down is made elsewhere as it is made here."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from enum import StrEnum
from pathlib import Path
from typing import Any

import pytest

from chunkwise import plugins
from chunkwise.contract import ActionChunk, ChunkRequest, Frame, InterfaceValidationError
from chunkwise.options import UsageError
from chunkwise.policies import Recipe
from chunkwise.testing.worker import count

FILE = Path(__file__).parents[1] / "workers" / "elsewhere.py"


class Fit(StrEnum):
    CROP = "crop"


def infer(frame: Frame, request: ChunkRequest) -> ActionChunk:
    """A function at the top of a module."""
    raise NotImplementedError


renamed = functools.partial(infer)


def test_options_are_plain_and_survive_json() -> None:
    recipe = Recipe("my.py:Mine", {"path": Path("weights"), "sizes": (1, 2), "fit": Fit.CROP, "n": {"a": None}})
    assert recipe.options == {"path": "weights", "sizes": [1, 2], "fit": "crop", "n": {"a": None}}
    assert Recipe(**json.loads(json.dumps(recipe.to_dict()))) == recipe


def test_an_option_that_cannot_be_written_down_is_refused() -> None:
    with pytest.raises(InterfaceValidationError, match=r"my\.py:Mine: clock is a builtin_function_or_method"):
        Recipe("my.py:Mine", {"clock": print})


def test_a_class_a_function_and_an_object_are_made() -> None:
    mirror = Recipe(f"{FILE}:Mirror", {"offset": "2.5"}, {"control_hz": 25.0, "unknown": 1}).make()
    assert (type(mirror).__name__, mirror._offset, mirror.rate) == ("Mirror", 2.5, 25.0)
    function = Recipe(f"{FILE}:look").make()
    assert callable(function.infer)
    assert Recipe("wave", {"rows": 7}).make().spec.action_horizon == 7


def test_what_is_said_is_not_overridden_by_what_is_offered() -> None:
    assert Recipe(f"{FILE}:Mirror", {"control_hz": 10.0}, {"control_hz": 25.0}).make().rate == 10.0


@pytest.mark.parametrize(
    ("name", "options", "text"),
    [
        (f"{FILE}:Mirror", {"offest": 1}, r"no option 'offest' \(did you mean 'offset'\?\)"),
        (f"{FILE}:look", {"x": 1}, "is no class and has no options, got x"),
        (f"{FILE}:JOINTS", {}, "neither a class, a function nor an object"),
        (f"{FILE}", {}, "does not say which class"),
        ("carrier-pigeon://host", {}, "no wire 'carrier-pigeon'"),
        ("native://host:1", {"url": "x"}, "is its url already"),
        ("no/such/folder/at/all", {}, "no such directory"),
    ],
)
def test_what_is_wrong_is_said(name: str, options: dict[str, Any], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        Recipe(name, options).make()


def test_a_name_that_is_not_there_is_said_with_the_nearest() -> None:
    with pytest.raises(plugins.UnknownAdapter, match=r"did you mean 'wave'\?"):
        Recipe("wavy").make()


def test_a_function_is_named_by_its_module_or_else_by_its_file() -> None:
    assert Recipe.of(count).name == "chunkwise.testing.worker:count"
    assert Recipe.of(plugins.load("policies", f"{FILE}:look")).name == f"{FILE}:look"


def test_a_function_of_a_program_is_named_by_the_program(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "from chunkwise.policies import Recipe\n"
        "def infer(frame, request): ...\n"
        "if __name__ == '__main__': print(Recipe.of(infer).name)\n",
        encoding="utf-8",
    )
    made = subprocess.run([sys.executable, program], capture_output=True, text=True, check=True)
    assert made.stdout.strip() == f"{program}:infer"


def nested() -> Any:
    def inside(frame: Frame, request: ChunkRequest) -> None: ...

    return inside


class Policy:
    def infer(self, frame: Frame, request: ChunkRequest) -> None: ...


@pytest.mark.parametrize(
    "function", [lambda frame, request: None, nested(), renamed, Policy().infer, Policy.infer]
)
def test_what_has_no_name_at_the_top_of_a_module_is_refused_with_the_cure(function: Any) -> None:
    with pytest.raises(InterfaceValidationError, match=r"cannot be found by its name .*Recipe\('my_policy.py"):
        Recipe.of(function)
