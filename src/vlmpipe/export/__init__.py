"""Trained weights out of the house: merged folders, GGUF files, Ollama."""
