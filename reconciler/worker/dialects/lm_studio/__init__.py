"""LM Studio's chat API and its older REST API v0."""
