"""The parts of a pod that a trainer and a check share."""
