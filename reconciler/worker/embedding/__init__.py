"""Vectors of texts, by models that mlx-lm loads to generate.

`request` reads a body (in the preprocessing process), `session` takes the texts of all requests
through the model (on the MLX thread), `encoder` is the model with what sentence-transformers puts
behind it, and `answers` writes the vectors. A further API needs an entry in `READERS` and in
`FORMS`.
"""
