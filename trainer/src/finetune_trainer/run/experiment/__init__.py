"""An experiment on this machine: its jobs one after the other, and the comparison of their results."""
