"""Ollama: the Modelfile, registration, and the rung of the ladder behind it."""
