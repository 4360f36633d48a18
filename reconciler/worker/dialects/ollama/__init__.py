"""Ollama's chats and generated texts."""
