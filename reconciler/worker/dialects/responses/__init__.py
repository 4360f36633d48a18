"""OpenAI's Responses API: conversations as items, and answers as items and many events.

`reading` translates a request into a chat (`items`: the conversation, `tools`: the tools). `output`
makes the items of an answer, `writing` the response around them. Nothing is stored.

Source of the forms: the types in the package `openai`, `types/responses/`, and Codex's requests.
"""
