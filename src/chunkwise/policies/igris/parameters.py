"""The runtime-parameters JSON: rates, sizes and cameras of a policy, every one of them checked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from chunkwise.policies.igris.documents import PolicyFileError, read_bytes
from chunkwise.processing.igris import IgrisFileError, RuntimeParams, runtime_params


def read_runtime_params(path: str | Path) -> RuntimeParams:
    """A runtime-parameters file; a relative path in it begins in its folder.

    Raises:
        MissingFile: there is no such file.
        PolicyFileError: it is no JSON; a key is unknown, missing, or twice; a value is of another type, out of
            range, or does not go with another.
    """
    path = Path(path).expanduser()
    try:
        params = runtime_params(read_bytes(path, "runtime parameters"), str(path))
    except IgrisFileError as error:
        raise PolicyFileError(str(error)) from error
    if not params.norm_stats:
        return params
    return replace(params, norm_stats=str(path.parent / Path(params.norm_stats).expanduser()))
