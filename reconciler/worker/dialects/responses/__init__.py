"""OpenAI's Responses: a conversation as items, and an answer as items and many events.

`reading` makes a chat of a request (`items`: the conversation, `tools`: the tools). `output` has
the items of an answer, `writing` the response around them. Nothing is stored.

Source of the forms: the types in the package `openai`, `types/responses/`; what Codex sends.
"""
