"""The forms of requests and answers beside OpenAI's chat completions, one module each.

`reading` is what the preprocessing process knows of them: a request becomes the chat or the text
completion that it means. `writing` is what the worker knows: how the answer is written.
"""
