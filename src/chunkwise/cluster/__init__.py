"""Many robots and their policies on a Ray cluster: what a fleet is, and one run of it.

No control loop is part of the cluster.  On each robot's node an actor starts a program of its own, and the program
ends softly when the actor, its node or the one who asked for it has gone.
"""
