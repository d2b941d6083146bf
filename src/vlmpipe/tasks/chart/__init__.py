"""Charts: their generator, their Mermaid, what an answer got right."""
