"""Score the relevance of documents to a query, with models that answer yes or no.

A reranker generates one token for each document; the score is the probability of yes relative to
no. `request` makes the prompts (in the preprocessing process), `answers` runs them in a session.
"""
