"""What can be wrong with a recording."""

from chunkwise.contract import InterfaceValidationError


class RecordingError(InterfaceValidationError):
    """A recording cannot be written, or a file is none, or holds what no recording holds."""
