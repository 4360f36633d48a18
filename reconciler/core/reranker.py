"""Reranking with a checkpoint that generates: it answers a question with yes or no."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Reranker:
    """The prompt for a query and a document, and the tokens of the answers.

    `before`, `pair` and `after` are tokenized separately.
    """

    before: str
    pair: str
    """Contains {instruction}, {query} and, at its end, {document}."""
    after: str
    """Followed by the model's answer."""
    instruction: str
    """Default for requests without one."""
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
