"""What the readers of the IGRIS files share; see `tests/policies/igris` and `tests/robots/igris` for the files."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from chunkwise.processing.igris import MAX_BYTES, IgrisFileError, Tree, read_json, runtime_params

FILE = Path(__file__).parents[2] / "examples" / "igris_b" / "inference_runtime_params.json"


def test_the_slew_limit_is_per_second() -> None:
    params = runtime_params(FILE.read_bytes(), "params.json")
    assert params.max_rate == pytest.approx(math.radians(100))
    assert params.norm_stats == ""


def test_json_is_bounded() -> None:
    with pytest.raises(IgrisFileError, match=f"params.json is larger than {MAX_BYTES} bytes"):
        read_json(b" " * (MAX_BYTES + 1), "params.json")


def test_a_long_value_is_cut_in_a_message() -> None:
    with pytest.raises(IgrisFileError) as raised:
        Tree("x" * 10_000, "params.json")
    assert len(str(raised.value)) < 200 and str(raised.value).endswith("...")


@pytest.mark.parametrize(
    ("value", "said"), [(None, "must be a name"), ("", "must be a name"), (" ", "must be"), (3, "got 3")]
)
def test_texts(value: object, said: str) -> None:
    with pytest.raises(IgrisFileError, match=said):
        Tree({"a": value}, "file").text("a", "a name")
