"""Samples: read from files or generated, audited, split, stored, read back."""
