"""Log-probabilities in OpenAI's forms, one for chats and one for texts."""

from typing import Any

from reconciler.worker.likelihood import Likelihood


def of_chat(tokenizer: Any, likelihoods: list[Likelihood]) -> dict[str, Any]:
    """The `logprobs` object of a chat."""

    def entry(token: int, logprob: float) -> dict[str, Any]:
        text = str(tokenizer.decode([token]))
        whole = "\ufffd" not in text  # else a partial character, whose bytes are unknown
        return {
            "token": text,
            "logprob": logprob,
            "bytes": list(text.encode()) if whole else None,
        }

    return {
        "content": [
            entry(one.token, one.logprob) | {"top_logprobs": [entry(*a) for a in one.alternatives]}
            for one in likelihoods
        ]
    }


class TokenTexts:
    """Text of each token, decoded individually and cached."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._texts: dict[int, str] = {}

    def __getitem__(self, token: int) -> str:
        text = self._texts.get(token)
        if text is None:
            text = self._texts[token] = str(self._tokenizer.decode([token]))
        return text


class TextLogprobs:
    """Builds the `logprobs` object of one text incrementally.

    As in vLLM, `text_offset` counts the characters of the preceding tokens, each decoded
    individually.
    """

    def __init__(self, texts: TokenTexts, offset: int = 0) -> None:
        """`offset`: characters before the next token."""
        self.texts = texts
        self.offset = offset

    def begin(self, first: int, likelihoods: list[Likelihood]) -> dict[str, Any]:
        """Log-probabilities of a prompt; its `first` token has none.

        Takes seconds for a long prompt, so it must not run on a shared thread.
        """
        text = self.texts[first]
        self.offset = len(text)
        more = self.add(likelihoods)
        return {
            "tokens": [text, *more["tokens"]],
            "token_logprobs": [None, *more["token_logprobs"]],
            "top_logprobs": [None, *more["top_logprobs"]],
            "text_offset": [0, *more["text_offset"]],
        }

    def add(self, likelihoods: list[Likelihood]) -> dict[str, Any]:
        """Log-probabilities of further tokens."""
        tokens, offsets = [], []
        for one in likelihoods:
            text = self.texts[one.token]
            tokens.append(text)
            offsets.append(self.offset)
            self.offset += len(text)
        return {
            "tokens": tokens,
            "token_logprobs": [one.logprob for one in likelihoods],
            "top_logprobs": [self._alternatives(one) for one in likelihoods],
            "text_offset": offsets,
        }

    def _alternatives(self, one: Likelihood) -> dict[str, float]:
        """Log-probabilities by token text; of equal texts (partial characters), the most likely."""
        found: dict[str, float] = {}
        for token, logprob in one.alternatives:
            found.setdefault(self.texts[token], logprob)
        return found
