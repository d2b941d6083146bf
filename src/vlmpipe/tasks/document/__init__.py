"""Medical insurance forms: the schema, the made-up claims, the metrics."""
