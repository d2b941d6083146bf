"""GGUF files: made, held against the merged model, described."""
