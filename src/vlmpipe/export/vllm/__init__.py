"""Folders for vLLM, through llm-compressor."""
