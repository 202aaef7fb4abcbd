"""What is known of a job before training: its inputs, its estimate, and a rehearsal on a small copy."""
