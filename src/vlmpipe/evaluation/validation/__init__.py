"""Validate as a stage: base against tuned, and what the figures are held against."""
