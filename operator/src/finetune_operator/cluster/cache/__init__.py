"""What the watches have delivered, and what it shows about one job."""
