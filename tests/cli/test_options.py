from __future__ import annotations

import doctest
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

import pytest

from chunkwise import options
from chunkwise.cli import table
from chunkwise.cli.parser import Parser, dotted
from chunkwise.options import UsageError, chosen, convert, options_of


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


@pytest.mark.parametrize(
    ("value", "hint", "expected"),
    [
        ("3", int, 3),
        (3, int, 3),
        (3.0, int, 3),
        ("2.5e-3", float, 0.0025),
        (2, float, 2.0),
        ("yes", bool, True),
        ("FALSE", bool, False),
        (True, bool, True),
        ("text", str, "text"),
        (8080, str, "8080"),
        ("a/b", Path, Path("a/b")),
        ("none", str | None, None),
        (None, float | None, None),
        ("5", float | None, 5.0),
        ("exp", Literal["exp", "linear"], "exp"),
        ("2", Literal[1, 2], 2),
        ("blue", Colour, Colour.BLUE),
        ("head, ceiling", tuple[str, ...], ("head", "ceiling")),
        ("", tuple[str, ...], ()),
        (["head"], tuple[str, ...], ("head",)),
        ("240,320", tuple[int, int], (240, 320)),
        ("1,2", list[float], [1.0, 2.0]),
        ("0.1,0.9", float | tuple[float, float], (0.1, 0.9)),
        ("name", int | str, "name"),
        ("[1, 2]", Any, [1, 2]),
    ],
)
def test_a_value_becomes_what_its_hint_asks_for(value: object, hint: Any, expected: object) -> None:
    made = convert(value, hint, "it")
    assert made == expected
    assert type(made) is type(expected)


@pytest.mark.parametrize(
    ("value", "hint", "message"),
    [
        ("3.5", int, "it must be a whole number, got '3.5'"),
        (3.5, int, "a whole number"),
        (True, int, "a whole number"),
        ("fast", float, "it must be a number"),
        ([1], float, "a number"),
        ("maybe", bool, "true or false"),
        (None, str, "a text"),
        ("expp", Literal["exp", "linear"], r"one of exp, linear, got 'expp' .did you mean 'exp'"),
        ("green", Colour, "one of red, blue"),
        ("1,2,3", tuple[int, int], "must have 2 values"),
        (5, tuple[int, ...], "must be a list"),
        ("x", int | float, "a whole number or a number"),
        ("{front: [", Any, "it is no YAML: while parsing"),
    ],
)
def test_another_value_is_refused_by_name(value: object, hint: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        convert(value, hint, "it")


class Adapter:
    def __init__(
        self,
        infer: Callable[[], None],
        *,
        arms: int = 2,
        speed: float | None = None,
        port: str,
        clock: Callable[[], float] = float,
        plain=7,
        nothing=None,
        **rest: int,
    ) -> None: ...


class Heir(Adapter):
    """Its constructor is its parent's."""


@dataclass(frozen=True)
class Data:
    horizon: int = 0


@dataclass(frozen=True)
class MoreData(Data):
    schedule: Literal["exp", "ones"] = "exp"


@pytest.mark.parametrize("maker", [Adapter, Heir])
def test_the_options_are_the_arguments_that_text_can_express(maker: type) -> None:
    assert list(options_of(maker)) == ["arms", "speed", "port", "plain", "nothing"]
    assert chosen(maker, {"arms": "1", "plain": "8", "nothing": "2.5"}, "it") == {
        "arms": 1,
        "plain": 8,
        "nothing": 2.5,
    }


def test_the_options_of_dataclasses_are_their_fields_the_inherited_too() -> None:
    assert chosen(MoreData, {"horizon": "8", "schedule": "ones"}, "it") == {"horizon": 8, "schedule": "ones"}


def test_a_class_without_a_constructor_has_no_options() -> None:
    class Empty: ...

    assert options_of(Empty) == {}
    with pytest.raises(UsageError, match="robot empty has no option 'a'; there are: none"):
        chosen(Empty, {"a": "1"}, "robot empty")


def test_an_unknown_option_is_refused_with_the_nearest_and_the_list() -> None:
    with pytest.raises(UsageError, match=r"no option 'arm' .did you mean 'arms'.*there are: arms, speed"):
        chosen(Adapter, {"arm": "1"}, "robot adapter")


def test_dotted_flags_in_every_spelling() -> None:
    argv = ["--a.x=1", "--b.some-name", "-0.5", "--a.flag", "--seconds", "2", "--a.last"]
    rest, found = dotted(argv, ["a", "b"])
    assert rest == ["--seconds", "2"]
    assert found == {"a": {"x": "1", "flag": "true", "last": "true"}, "b": {"some_name": "-0.5"}}


def test_a_mistyped_flag_is_one_line_with_the_nearest() -> None:
    parser = Parser("run", "", "")
    parser.add_argument("--seconds")
    with pytest.raises(UsageError, match=r"unknown argument '--secnds=3' .did you mean '--seconds'"):
        parser.parse(["--secnds=3"])
    with pytest.raises(UsageError, match="expected one argument"):
        parser.parse(["--seconds"])
    with pytest.raises(UsageError, match="unknown argument '--sec'"):  # no guessing at abbreviations
        parser.parse(["--sec", "3"])


@pytest.mark.parametrize("module", [options, table])
def test_the_examples_in_the_docstrings_are_true(module: Any) -> None:
    assert doctest.testmod(module).failed == 0
