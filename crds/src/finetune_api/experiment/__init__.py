"""`FineTuneExperiment`: variants of one job, their order and money, and how their results are ranked."""
