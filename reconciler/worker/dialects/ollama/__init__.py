"""Ollama's chat and generate APIs."""
