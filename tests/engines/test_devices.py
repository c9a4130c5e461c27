"""Words for devices."""

import pytest

from chunkwise.contract import InterfaceValidationError
from chunkwise.engines._devices import DeviceError, choose

CARDS = ["cuda:0", "cuda:1", "mps", "cpu"]


@pytest.mark.parametrize(
    ("word", "there", "meant"),
    [
        ("auto", CARDS, "cuda:0"),
        ("auto", ["mps", "cpu"], "mps"),
        ("auto", ["cpu"], "cpu"),
        ("cuda", CARDS, "cuda:0"),
        ("cuda:1", CARDS, "cuda:1"),
        (" CUDA:1 ", CARDS, "cuda:1"),
        ("metal", CARDS, "mps"),
        ("cpu", CARDS, "cpu"),
    ],
)
def test_a_word_means_a_device_that_is_there(word, there, meant):
    assert choose(word, there, "any") == meant


@pytest.mark.parametrize("word", ["cuda", "cuda:0", "mps", "metal"])
def test_what_is_not_there_is_refused_with_what_is(word):
    with pytest.raises(DeviceError, match=rf"runtime has no device '{word}' here; there are: cpu, auto"):
        choose(word, ["cpu"], "runtime")


def test_a_card_that_is_not_there_is_not_another_card():
    with pytest.raises(DeviceError, match="cuda:7"):
        choose("cuda:7", CARDS, "any")


@pytest.mark.parametrize("word", ["cdua", "npu", "", "cpu:0", "cuda:", "cuda:x", "cuda:-1", "auto:1"])
def test_no_words_are_refused(word):
    with pytest.raises(DeviceError, match="is no device"):
        choose(word, CARDS, "any")


def test_the_nearest_word_is_named():
    with pytest.raises(InterfaceValidationError, match="did you mean 'cuda'"):
        choose("cdua", CARDS, "any")
