"""What people and programs see of a run while it goes on."""
