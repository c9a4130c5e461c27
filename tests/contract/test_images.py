"""The rule of what a policy's images are like."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest

from chunkwise.contract import ImageRule, InterfaceValidationError
from chunkwise.contract.images import CHOICES, validate_image_rule


@pytest.mark.parametrize(("name", "word"), [(name, word) for name, words in CHOICES.items() for word in words])
def test_every_word_there_is_passes(name: str, word: str) -> None:
    validate_image_rule(replace(ImageRule(224, 224), **{name: word}), "head")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"height": -1}, "head: height must be pixels, 0 for any, got -1"),
        ({"width": 1 << 15}, "head: width must be pixels"),
        ({"width": True}, "head: width must be pixels"),
        ({"height": 224.0}, r"head: height must be pixels, 0 for any, got 224\.0"),
        ({"fit": "leterbox"}, "head: fit must be one of .*did you mean 'letterbox'"),
        ({"pad": "center"}, "head: pad must be one of .*did you mean 'centre'"),
        ({"interpolation": "linear"}, "head: interpolation must be one of .*did you mean 'bilinear'"),
        ({"colours": "RGB"}, "head: colours must be one of rgb, bgr, grey, got 'RGB'"),
        ({"antialias": 1}, "head: antialias must be true or false, got 1"),
        ({"axes": None}, "head: axes must be one of hwc, chw, got None"),
    ],
)
def test_a_wrong_rule_is_refused_by_its_field(change: dict[str, Any], words: str) -> None:
    with pytest.raises(InterfaceValidationError, match=words):
        validate_image_rule(replace(ImageRule(), **change), "head")


@pytest.mark.parametrize("item", fields(ImageRule), ids=lambda item: item.name)
def test_every_difference_is_named(item: Any) -> None:
    other = {"height": 9, "width": 9, "antialias": False}.get(item.name) or CHOICES.get(item.name, (False,))[-1]
    rule = ImageRule()
    assert rule.differences(rule) == []
    assert rule.differences(replace(rule, **{item.name: other})) == [
        f"{item.name}: {item.default} here, {other} there"
    ]
