"""The control loop, its pacing, and what it tells about itself.

``pacing`` is the only place that turns time into steps; ``loop`` is one turn; ``session`` puts robot, policy,
strategy, worker and gate together and runs them.
"""
