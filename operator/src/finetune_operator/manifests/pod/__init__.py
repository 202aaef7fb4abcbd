"""The parts of a pod that a trainer and a check share: put together in trainer_job.py and preflight_job.py."""
