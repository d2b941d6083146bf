"""What synthetic pictures are drawn with: shipped fonts, so that a seed gives the same pixels."""
