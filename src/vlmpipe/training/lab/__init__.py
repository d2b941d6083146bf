"""Small experiments before a long training."""
