"""Builds the prompt of a request from its messages, with the model's chat template."""
