"""How relevant documents are to a query, by models that answer yes or no.

A reranker generates one token for each document, and the score is the probability of yes beside no.
`request` makes the prompts (in the preprocessing process), `answers` has a session read them.
"""
