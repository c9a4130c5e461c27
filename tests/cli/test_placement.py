"""One key moves a policy's network; another puts a second policy behind the first."""

from __future__ import annotations

from typing import Any

import pytest

from chunkwise.cli import engine
from chunkwise.cli.placement import policy_of
from chunkwise.cli.settings import Choice, Settings
from chunkwise.options import UsageError

FOLDER = Choice("some/folder", {"device": "cuda", "threads": 2, "state": ("arm",), "task": "pick"})


def test_the_key_alone_moves_the_network_and_leaves_it_what_is_its() -> None:
    settings = Settings(policy=FOLDER, network="native://gpu:7777")
    assert policy_of(settings) == FOLDER
    settings.execution_mode = "distributed"
    assert policy_of(settings) == Choice(
        "distributed",
        {"path": "some/folder", "network": "native://gpu:7777", "state": ("arm",), "task": "pick"},
    )


def test_a_misspelt_option_is_not_taken_for_the_networks() -> None:
    settings = Settings(policy=Choice("f", {"tasc": "x"}), network="native://g:1", execution_mode="distributed")
    assert policy_of(settings).options["tasc"] == "x", "it is refused where the policy is made"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"execution_mode": "distributed"}, r"needs the network's address.*chunkwise engine --policy some/folder"),
        ({"execution_mode": "cloud"}, "must be one of monolithic, distributed, got 'cloud'"),
    ],
)
def test_what_is_missing_is_said(given: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        policy_of(Settings(policy=FOLDER, **given))


def test_a_fallback_stands_behind_the_policy() -> None:
    settings = Settings(policy=Choice("native://gpu:7777", {"timeout_s": 0.5}), fallback="wave")
    assert policy_of(settings) == Choice(
        "fallback", {"policies": [{"name": "native://gpu:7777", "timeout_s": 0.5}, "wave"]}
    )


@pytest.mark.parametrize("words", [["--policy", "DIR", "--device", "cpu"], ["--policy=DIR", "--device", "cpu"]])
def test_engine_serves_the_network_of_the_directory(monkeypatch: pytest.MonkeyPatch, words: list[str]) -> None:
    served: list[list[str]] = []
    monkeypatch.setattr(engine.serve, "main", lambda argv: served.append(list(argv)) or 0)
    assert engine.main(words) == 0
    assert served == [["--policy", "network", "--policy.path", "DIR", "--device", "cpu"]]


def test_engine_needs_a_directory() -> None:
    with pytest.raises(UsageError, match="which policy"):
        engine.main(["--device", "cpu"])
