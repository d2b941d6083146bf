"""A Qwen vision-language model from fine-tuning to a served endpoint, proven on the way."""

__version__ = "0.1.0"
