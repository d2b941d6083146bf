"""The served endpoint: a FastAPI gateway in front of a worker process that holds the model."""
