"""What makes a reranker of a checkpoint that generates: a question whose answer is yes or no."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Reranker:
    """How a query and a document become a prompt, and which tokens are the answers.

    What is before a pair, the pair, and what is after it are made into tokens apart.
    """

    before: str
    pair: str
    """With {instruction}, {query} and, at its end, {document}."""
    after: str
    """The model answers next."""
    instruction: str
    """In force where a request has none."""
    yes: str
    no: str


QWEN3 = Reranker(
    before=(
        "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query "
        'and the Instruct provided. Note that the answer can only be "yes" or "no".<|im_end|>\n'
        "<|im_start|>user\n"
    ),
    pair="<Instruct>: {instruction}\n<Query>: {query}\n<Document>: {document}",
    after="<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
    instruction="Given a web search query, retrieve relevant passages that answer the query",
    yes="yes",
    no="no",
)
"""Source: the model card of Qwen/Qwen3-Reranker-0.6B, -4B and -8B."""
