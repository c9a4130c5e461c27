"""The kits themselves: each check fails on an adapter that is broken in its way, and on no whole one."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from chunkwise.testing import (
    EngineConformance,
    PolicyConformance,
    RobotConformance,
    StrategyConformance,
    TransportConformance,
    WireConformance,
    WorkerConformance,
    transport,
    worker,
)

KITS = [
    EngineConformance,
    PolicyConformance,
    RobotConformance,
    StrategyConformance,
    TransportConformance,
    WireConformance,
    WorkerConformance,
]


def _beside(name: str) -> ModuleType:
    """The module of that name in this folder."""
    spec = importlib.util.spec_from_file_location(f"conformance_{name}", Path(__file__).with_name(f"{name}.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


broken = _beside("broken")
TestWhole, TestStill, TestSum = broken.TestWhole, broken.TestStill, broken.TestSum


@pytest.mark.parametrize(
    ("kit", "check"), broken.BROKEN, ids=[f"{kit.__name__}-{check}" for kit, check in broken.BROKEN]
)
def test_a_broken_adapter_fails_its_check(kit: type, check: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (worker, transport):
        monkeypatch.setattr(module, "PATIENCE_S", 0.2)  # these do use it up
    with pytest.raises(AssertionError) as failed:
        getattr(kit(), check)()
    assert str(failed.value), "a failed check says what the contract is"


@pytest.mark.parametrize("kit", KITS)
def test_every_check_has_an_adapter_that_it_fails(kit: type) -> None:
    checks = {name for name in dir(kit) if name.startswith("test_")}
    assert checks == {check for broken_kit, check in broken.BROKEN if issubclass(broken_kit, kit)}
