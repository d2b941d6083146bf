"""What the frozen tower makes of an image, computed once."""
