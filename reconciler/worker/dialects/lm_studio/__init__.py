"""LM Studio's chats."""
