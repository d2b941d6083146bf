"""What is watched while a training runs, and what is done about it."""
