"""Log-probabilities as OpenAI's clients know them: those of chats, and those of texts."""

from typing import Any

from reconciler.worker.likelihood import Likelihood


def of_chat(tokenizer: Any, likelihoods: list[Likelihood]) -> dict[str, Any]:
    """The `logprobs` of a chat."""

    def entry(token: int, logprob: float) -> dict[str, Any]:
        text = str(tokenizer.decode([token]))
        whole = "\ufffd" not in text  # else a part of a character, whose bytes are not known
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
    """The text of each token by itself, decoded once."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._texts: dict[int, str] = {}

    def __getitem__(self, token: int) -> str:
        text = self._texts.get(token)
        if text is None:
            text = self._texts[token] = str(self._tokenizer.decode([token]))
        return text


class TextLogprobs:
    """The `logprobs` of one text, in pieces.

    As in vLLM `text_offset` counts the characters of the tokens before, each decoded by itself.
    """

    def __init__(self, texts: TokenTexts, offset: int = 0) -> None:
        """The next token comes after `offset` characters."""
        self.texts = texts
        self.offset = offset

    def begin(self, first: int, likelihoods: list[Likelihood]) -> dict[str, Any]:
        """Those of a prompt, of whose `first` token nothing is known.

        Takes seconds for a long prompt: not for a thread that others wait for.
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
        """Those of further tokens."""
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
        """By their texts; of those with the same text (parts of characters) the likeliest."""
        found: dict[str, float] = {}
        for token, logprob in one.alternatives:
            found.setdefault(self.texts[token], logprob)
        return found
