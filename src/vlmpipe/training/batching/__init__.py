"""Which samples go together in a forward pass, and how they become tensors."""
