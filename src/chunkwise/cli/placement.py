"""One policy, in one place or in two, with another one behind it: what these settings make of ``--policy``."""

from __future__ import annotations

from typing import Any, Final

from chunkwise import plugins
from chunkwise.cli.settings import Choice, Settings
from chunkwise.options import UsageError, options_of

MODES: Final = ("monolithic", "distributed")


def policy_of(settings: Settings) -> Choice:
    """The policy that the settings ask for, where they ask for it.

    Raises:
        UsageError: a mode that there is not, or an address that is missing.
    """
    assert settings.policy is not None
    policy = placed(settings.policy, settings.execution_mode, settings.network)
    return backed(policy, settings.fallback)


def placed(policy: Choice, mode: str, network: str | None) -> Choice:
    """The policy in its execution mode.

    Args:
        policy: a policy's directory, for ``distributed``.
        mode: one of `MODES`.
        network: where its network is served.

    Raises:
        UsageError: the mode is none, or says nothing of where the network is.
    """
    if mode not in MODES:
        raise UsageError(f"execution_mode must be one of {', '.join(MODES)}, got {mode!r}")
    if mode == "monolithic":
        return policy
    if not network:
        raise UsageError(
            "execution_mode distributed needs the network's address: --network native://HOST:7777, where "
            f"`chunkwise engine --policy {policy.name}` runs"
        )
    here = options_of(plugins.load("policies", "distributed"))
    there = options_of(plugins.load("policies", "network"))
    # What the network is run with is said where it runs; the same configuration serves both.
    options = {key: value for key, value in policy.options.items() if key in here or key not in there}
    return Choice("distributed", {"path": policy.name, "network": network, **options})


def backed(policy: Choice, fallback: str | dict[str, Any] | None) -> Choice:
    """The policy with another one behind it, which answers while it cannot."""
    if not fallback:
        return policy
    return Choice("fallback", {"policies": [policy.plain(), fallback]})
