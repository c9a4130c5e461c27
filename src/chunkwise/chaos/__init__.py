"""A robot, a policy and a worker under faults that come by a plan, and what became of the promises.

``plan`` says what goes wrong; ``robot`` and ``policy`` are wrappers in which it does, ``outside`` is what comes
from elsewhere; ``inspection``, ``measure`` and ``leaks`` see what became of it; ``run`` puts it all together, and
``simulated`` does so while no time passes.
"""
