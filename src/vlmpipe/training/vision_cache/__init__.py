"""What the frozen vision tower makes of each image, computed once and proven equal to live."""
