"""The same samples through every engine: each in a process of its own, answers into records."""
