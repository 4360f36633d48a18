"""Embed texts with models that mlx-lm loads for generation.

`request` parses a body (in the preprocessing process), `session` batches the texts of all requests
through the model (on the MLX thread), `encoder` is the model with sentence-transformers' modules,
and `answers` writes the response. To add an API, add entries to `EMBEDDING_READERS` and
`EMBEDDING_FORMS`.
"""
