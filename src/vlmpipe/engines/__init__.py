"""Ways to run a model: one protocol, one file for each engine."""
