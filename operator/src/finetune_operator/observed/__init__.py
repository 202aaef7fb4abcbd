"""What the operator observes in the cluster: jobs, attempts and pods as small typed values. Pure."""
