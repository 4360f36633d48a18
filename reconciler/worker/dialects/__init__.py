"""API dialects: the forms of requests and answers, one package each.

`reading` maps each dialect to its parser, which runs in the preprocessing process and translates a
request into a chat or text completion. `writing` maps each dialect to the code with which the
worker writes the answer.
"""
