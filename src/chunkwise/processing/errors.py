"""What is wrong with files and data on their way into a policy and out of it."""

from __future__ import annotations

from chunkwise.contract.errors import InterfaceValidationError


class ProcessingError(InterfaceValidationError):
    """An image, a batch or a description of steps is not what it must be; the message names it."""


class SafetensorsError(ProcessingError):
    """Bytes are no safetensors file, or one with numbers that numpy does not have."""


class PickleError(ProcessingError):
    """A pickle is broken, or names or does what is not allowed; nothing of it has been run."""


class StatisticsError(ProcessingError):
    """Statistics are missing, or are none."""
