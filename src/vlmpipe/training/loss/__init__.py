"""The loss: logits of supervised positions alone, in chunks, normalised over the whole step."""
