"""Models: what a family is, embedded ones, loading, what a model folder may bring."""
