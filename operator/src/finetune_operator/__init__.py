"""The operator: watches FineTuneJobs, decides in one pure function, and acts through the Kubernetes API."""
