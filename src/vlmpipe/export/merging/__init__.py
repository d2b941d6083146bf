"""Trained weights into the base's own files, proven."""
