"""What happens next to an experiment. Pure: the pure planner of finetune_api, on what a cluster shows of the jobs."""
