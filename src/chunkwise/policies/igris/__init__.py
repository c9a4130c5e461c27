"""Policies of the IGRIS inference engine, from their YAML: its protocol, its registry.

A policy registers itself by name and is built from its YAML::

    from chunkwise.policies.igris import POLICY_REGISTRY

    @POLICY_REGISTRY.register("your_policy")
    class YourPolicy: ...

It then drives any robot: ``chunkwise run --policy igris --policy.config your_policy.yaml``.
"""

from __future__ import annotations

from chunkwise.policies.igris.adapter import Igris
from chunkwise.policies.igris.blend import exponential_blend as exponential_blend
from chunkwise.policies.igris.build import build_policy as build_policy
from chunkwise.policies.igris.documents import MissingFile as MissingFile
from chunkwise.policies.igris.documents import PolicyFileError as PolicyFileError
from chunkwise.policies.igris.parameters import read_runtime_params as read_runtime_params
from chunkwise.policies.igris.registry import COMPONENT_REGISTRY as COMPONENT_REGISTRY
from chunkwise.policies.igris.registry import POLICY_REGISTRY as POLICY_REGISTRY
from chunkwise.policies.igris.registry import PolicyProtocol as PolicyProtocol
from chunkwise.processing.igris import RuntimeParams as RuntimeParams

__all__ = ["Igris"]
