"""``config.om.json``, version 1: which compiled files a policy's directory holds, and what runs them.

::

    {"schema_version": 1,
     "policy_type": "pi05",                        the three may be left out: then config.json
     "backend": "ascend_om",                       and the caller say it
     "artifact_dir": "om",                         paths are relative to it, and it to this file
     "artifacts": {"vlm": "vlm.om",
                   "action_expert": {"path": "action_expert.om", "sha256": "..."}},
     "execution": ["vlm", "action_expert"]}        the roles in their order, for who reads it

The format is IB-Robot's, and so are the messages.  Its own reader takes any version, any key and any path; here
a version or a key that is not known is refused, and so is a path that leads out of the directory, for one of the
files is a program.  A link within the directory is followed: whoever set it could as well have copied the file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chunkwise.contract import InterfaceValidationError
from chunkwise.contract.errors import nearest
from chunkwise.engines._compiled import read_json
from chunkwise.engines._devices import COMPILED
from chunkwise.engines._exported import sha256

OM_MANIFEST = "config.om.json"
SCHEMA = 1
EXECUTION: Mapping[tuple[str, str], tuple[str, ...]] = {
    ("ascend_om", "act"): ("policy",),
    ("ascend_om", "pi05"): ("vlm", "action_expert"),
    ("ascend_om_3403", "act"): ("policy", "worker"),
}
"""Roles by back end and family, in the order in which they run.  A worker is a program, the others are ``.om``."""
WORKER = "worker"
_KEYS = ("schema_version", "policy_type", "backend", "artifact_dir", "artifacts", "execution")
_ARTIFACT_KEYS = ("path", "sha256")


class MissingRole(InterfaceValidationError, KeyError):
    """The manifest lists no file of a role that the back end runs."""

    __str__ = Exception.__str__  # a KeyError's text is its argument's repr


@dataclass(frozen=True, slots=True)
class Artifact:
    """A file that the manifest lists: where, and what it should hash to, where that is said."""

    path: Path
    sha256: str = ""


@dataclass(frozen=True, slots=True)
class OmManifest:
    """What a manifest says.

    Attributes:
        path: of the manifest.
        backend, policy_type: what it is for; "" where it does not say.
        artifacts: by role.
        execution: roles in their order; empty where it does not say.
    """

    path: Path
    backend: str
    policy_type: str
    artifacts: Mapping[str, Artifact]
    execution: tuple[str, ...]

    def files(self, backend: str, policy_type: str) -> dict[str, Path]:
        """The file of every role that a back end runs, each checked.

        Raises:
            FileNotFoundError: one is not there, or is a worker that cannot be executed.
            InterfaceValidationError: the manifest is for something else, lacks a role, or a file is not the one.
        """
        roles = EXECUTION.get((backend, policy_type))
        if roles is None:
            raise InterfaceValidationError(
                f"Compiled backend {backend} does not support policy type {policy_type!r}"
            )
        if self.execution and self.execution != roles:
            raise InterfaceValidationError(
                f"Compiled manifest execution must be {[*roles]}, got {[*self.execution]}: {self.path}"
            )
        return {role: self._file(role) for role in roles}

    def _file(self, role: str) -> Path:
        artifact = self.artifacts.get(role)
        if artifact is None:
            there = ", ".join(self.artifacts) or "<none>"
            raise MissingRole(f"Compiled manifest is missing artifact role {role!r}; available roles: {there}")
        path = artifact.path
        if role != WORKER and path.suffix.lower() != ".om":
            raise InterfaceValidationError(f"Compiled artifact {role!r} must be a .om file: {path}")
        if not path.is_file():
            raise FileNotFoundError(f"Compiled artifact {role!r} does not exist: {path}")
        if role == WORKER and not os.access(path, os.X_OK):
            raise FileNotFoundError(f"Compiled artifact {role!r} is not executable: {path}")
        if artifact.sha256 and sha256(path) != artifact.sha256.lower():
            raise InterfaceValidationError(
                f"Compiled artifact {role!r} is not the file that the manifest was written for, "
                f"its hash differs: {path}"
            )
        return path


def normalised(name: str) -> str:
    """A back end's name as it is written here.

    >>> normalised(" Ascend-OM ")
    'ascend_om'
    """
    return name.strip().lower().replace("-", "_")


def read_manifest(folder: Path, backend: str, policy_type: str) -> OmManifest:
    """The manifest of a directory; the files that it lists are not looked at, see :meth:`OmManifest.files`.

    Args:
        folder: the policy's directory.
        backend: that is to run it.
        policy_type: that ``config.json`` says.

    Raises:
        FileNotFoundError: there is no manifest.
        InterfaceValidationError: it is none, or for another back end or policy.
    """
    path = folder / OM_MANIFEST
    if not path.is_file():
        raise FileNotFoundError(
            f"Compiled backend {backend} requires {OM_MANIFEST} under policy_path {folder}; "
            "`chunkwise export --to om-manifest` writes one"
        )
    return _manifest(read_json(path), path, (backend, policy_type))


def backend_of(folder: Path) -> str:
    """The back end that a directory's manifest names; "" where there is no manifest, or it does not say.

    An engine is loaded by this name, and engines' names may be those of programs: no other is taken than these.

    Raises:
        InterfaceValidationError: it is no manifest, or names another one.
    """
    path = folder / OM_MANIFEST
    backend = _manifest(read_json(path), path).backend if path.is_file() else ""
    if backend and backend not in COMPILED:
        raise InterfaceValidationError(
            f"Compiled manifest backend {backend!r:.80} is none of a compiled policy{nearest(backend, COMPILED)}; "
            f"there are: {', '.join(COMPILED)}: {path}"
        )
    return backend


def write_manifest(folder: Path, backend: str, policy_type: str, artifacts: Mapping[str, Path]) -> OmManifest:
    """Write the manifest of compiled files that are in a policy's directory; whole, or not at all.

    Args:
        folder: the directory.
        backend: that is to run it.
        policy_type: that ``config.json`` says.
        artifacts: a file for every role.

    Raises:
        FileNotFoundError, InterfaceValidationError: one is missing, or is not what such a file is.
    """
    roles = EXECUTION.get((backend, policy_type), ())
    for role in artifacts:
        if role not in roles:
            raise InterfaceValidationError(
                f"no role {role!r}{nearest(role, roles)} in {policy_type} for {backend}; there are: "
                f"{', '.join(roles) or 'none'}"
            )
    listed = {role: _relative(artifacts[role], folder, role) for role in roles if role in artifacts}
    tree: dict[str, Any] = {
        "schema_version": SCHEMA,
        "policy_type": policy_type,
        "backend": backend,
        "artifacts": {role: {"path": str(path)} for role, path in listed.items()},
        "execution": [*roles],
    }
    path = folder / OM_MANIFEST
    manifest = _manifest(tree, path, (backend, policy_type))
    for role, file in manifest.files(backend, policy_type).items():
        tree["artifacts"][role]["sha256"] = sha256(file)
    beside = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        beside.write_text(json.dumps(tree, indent=2) + "\n", encoding="utf-8")
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    return _manifest(tree, path)


def _relative(file: Path, folder: Path, role: str) -> Path:
    try:
        return Path(os.path.abspath(file)).relative_to(os.path.abspath(folder))
    except ValueError:
        raise InterfaceValidationError(
            f"artifact {role!r} must be in the policy's directory {folder}, and {file} is not: copy it there"
        ) from None


def _manifest(tree: Any, path: Path, wanted: tuple[str, str] = ("", "")) -> OmManifest:
    """A JSON tree as a manifest, and that it is for the back end and the policy type that are wanted."""
    if not isinstance(tree, dict):
        raise InterfaceValidationError(f"JSON config must be an object: {path}")
    for key in tree:
        if key not in _KEYS:
            raise InterfaceValidationError(
                f"Compiled manifest has an unknown key {key!r}{nearest(key, _KEYS)}; "
                f"there are: {', '.join(_KEYS)}: {path}"
            )
    schema = tree.get("schema_version", SCHEMA)  # the first writers left it out
    if type(schema) is not int or schema != SCHEMA:
        raise InterfaceValidationError(
            f"Compiled manifest schema_version {schema!r:.80} is not {SCHEMA}, "
            f"the one that this version reads: {path}"
        )
    backend, policy_type = normalised(_text(tree, "backend", path)), _text(tree, "policy_type", path)
    if wanted[0] and backend and backend != wanted[0]:
        raise InterfaceValidationError(
            f"Compiled manifest backend {backend!r} does not match requested backend {wanted[0]!r}: {path}"
        )
    if wanted[1] and policy_type and policy_type != wanted[1]:
        raise InterfaceValidationError(
            f"Compiled manifest policy_type {policy_type!r} does not match config type {wanted[1]!r}: {path}"
        )
    artifacts = _artifacts(tree, path)
    return OmManifest(path, backend, policy_type, artifacts, _execution(tree.get("execution"), path))


def _text(tree: Mapping[str, Any], key: str, path: Path) -> str:
    value = tree.get(key)
    if value is not None and not isinstance(value, str):
        raise InterfaceValidationError(f"Compiled manifest {key} must be a text, got {value!r:.80}: {path}")
    return value or ""


def _artifacts(tree: Mapping[str, Any], path: Path) -> dict[str, Artifact]:
    given = tree.get("artifacts")
    if not isinstance(given, dict) or not given:
        raise InterfaceValidationError(f"Compiled manifest must define non-empty artifacts map: {path}")
    beside = _text(tree, "artifact_dir", path)
    made = {}
    for role, entry in given.items():
        entry = {"path": entry} if isinstance(entry, str) else entry
        if not isinstance(entry, dict) or not isinstance(entry.get("path"), str) or not entry["path"]:
            raise InterfaceValidationError(
                f"Compiled manifest artifact {role!r} must be a path string or object with path"
            )
        for key in entry:
            if key not in _ARTIFACT_KEYS:
                raise InterfaceValidationError(
                    f"Compiled manifest artifact {role!r} has an unknown key {key!r}"
                    f"{nearest(key, _ARTIFACT_KEYS)}; there are: {', '.join(_ARTIFACT_KEYS)}: {path}"
                )
        if not isinstance(entry.get("sha256", ""), str):
            raise InterfaceValidationError(
                f"Compiled manifest artifact {role!r}: sha256 must be a text, got {entry['sha256']!r:.80}: {path}"
            )
        made[role] = Artifact(_within(entry["path"], beside, role, path), entry.get("sha256", ""))
    return made


def _within(text: str, beside: str, role: str, path: Path) -> Path:
    """The file that a path means; an absolute one, or ``~``, is fine as long as it stays in the directory."""
    folder = os.path.abspath(path.parent)
    found = os.path.normpath(os.path.join(folder, *(_at_home(part) for part in (beside, text))))
    if os.path.commonpath([folder, found]) != folder or found == folder:
        raise InterfaceValidationError(
            f"Compiled manifest artifact {role!r} leaves the policy's directory, by the path {found}; "
            f"copy it there: {path}"
        )
    return path.parent / os.path.relpath(found, folder)


def _at_home(text: str) -> str:
    """``~`` as the user's own home; other users' are nobody's business here."""
    return os.path.expanduser(text) if text == "~" or text.startswith("~/") else text


def _execution(listed: Any, path: Path) -> tuple[str, ...]:
    if listed is None:
        return ()
    if not isinstance(listed, list) or not all(isinstance(role, str) for role in listed):
        raise InterfaceValidationError(f"Compiled manifest execution must be a list of artifact roles: {path}")
    return tuple(listed)
