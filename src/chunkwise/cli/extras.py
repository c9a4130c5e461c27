"""What the package's metadata says that it may need, and what of it is installed; nothing is imported."""

from __future__ import annotations

import platform
import re
from importlib.metadata import PackageNotFoundError, requires, version

PACKAGE = "chunkwise"


def missing(extra: str) -> list[str]:
    """Distributions that the extra needs and that are not installed; none for a name that is no extra."""
    return [name for name in _needed(extra, set()) if _version(name) is None]


def versions() -> dict[str, str]:
    """Versions of Python, of this package, and of whatever it may use that is installed."""
    found = {"python": platform.python_version(), PACKAGE: _version(PACKAGE) or "not installed"}
    for name, _, marker in map(_split, requires(PACKAGE) or []):
        if name != PACKAGE and marker not in ("dev", "train"):
            installed = _version(name)
            if installed is not None:
                found[name] = installed
    return found


def _needed(extra: str, seen: set[str]) -> list[str]:
    """Distributions of an extra, those of the extras that it includes among them."""
    if extra in seen:
        return []
    seen.add(extra)
    names: list[str] = []
    for name, includes, marker in map(_split, requires(PACKAGE) or []):
        if marker != extra:
            continue
        if name == PACKAGE:
            names += [needed for included in includes for needed in _needed(included, seen)]
        else:
            names.append(name)
    return names


def _split(requirement: str) -> tuple[str, list[str], str]:
    """The distribution, the extras of it, and the extra that asks for it: ``a[b]>=1; extra == 'c'``."""
    name = re.match(r"[A-Za-z0-9._-]+", requirement)
    includes = re.match(r"[A-Za-z0-9._-]+\s*\[([^\]]*)\]", requirement)
    marker = re.search(r"extra\s*==\s*['\"]([^'\"]+)['\"]", requirement)
    return (
        name.group().lower() if name else "",
        [item.strip() for item in includes.group(1).split(",")] if includes else [],
        marker.group(1).replace("-", "_") if marker else "",
    )


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
