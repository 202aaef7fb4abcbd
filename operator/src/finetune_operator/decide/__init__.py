"""What to do about a job, as pure functions: an observation, the settings and the time go in, a plan comes out.

`plan.py` asks the questions in order; the other modules answer them.
"""
