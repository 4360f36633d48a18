"""From the messages of a request to the text of a prompt: a chat template and its ways."""
