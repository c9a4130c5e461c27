"""OpenArm over Dora, joined as a dynamic node of a running dataflow."""

__all__ = ["Dora"]


class Dora:
    pass
