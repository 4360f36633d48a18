"""Check that a model can draft for another: it generates, and numbers tokens in the same way."""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import msgspec

from reconciler.core.errors import LoadError, Problem, Reason
from reconciler.core.facts import Checkpoint
from reconciler.core.parts import Part, problem_of
from reconciler.models.files import FaultyFileError, error_of, read_bytes
from reconciler.models.places import Walk

FILE = "tokenizer.json"

MAX_BYTES = 300_000_000

_Id = Annotated[int, msgspec.Meta(ge=0, lt=2**31)]


class _Added(msgspec.Struct):
    id: _Id
    content: str


class _Model(msgspec.Struct):
    vocab: dict[str, _Id] | list[tuple[str, float]]
    """Token ids, or for Unigram the tokens in the order of their ids."""


class _Tokenizer(msgspec.Struct):
    model: _Model
    added_tokens: list[_Added] = []


@dataclass(frozen=True)
class Tokens:
    """The tokens of a checkpoint."""

    count: int
    digest: str
    """Hash over all tokens and their ids."""


def read_tokens(path: Path) -> Tokens:
    """Read the tokens of the checkpoint in directory `path`, from its tokenizer.json.

    Raises `FaultyFileError` with the file and its fault.
    """
    file = path / FILE
    try:
        read = msgspec.json.decode(read_bytes(file, MAX_BYTES), type=_Tokenizer)
    except FileNotFoundError:
        words = "missing: the tokens of a draft model and its model are compared by this file"
        raise FaultyFileError(file, words) from None
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise FaultyFileError(file, f"its tokens cannot be read: {error}") from None
    vocabulary = read.model.vocab
    if isinstance(vocabulary, list):
        vocabulary = {token: number for number, (token, _) in enumerate(vocabulary)}
    ids = vocabulary | {added.content: added.id for added in read.added_tokens}
    digest = hashlib.sha256()
    for token, number in sorted(ids.items()):
        digest.update(f"{token}\0{number}\0".encode("utf-8", "surrogatepass"))
    return Tokens(len(ids), digest.hexdigest())


class DraftModels:
    """Checks draft models; keeps the tokens of each directory that it has read."""

    def __init__(self) -> None:
        self._tokens: dict[str, tuple[str, Tokens]] = {}
        """Fingerprint and tokens by directory."""

    def with_draft(
        self, checkpoint: Checkpoint, draft: Checkpoint | LoadError, name: str, walk: Walk
    ) -> Checkpoint | LoadError:
        """The checkpoint with its draft model, or the error that prevents drafting with it.

        `name`: identifier of the draft model, as requested.
        """
        if isinstance(draft, LoadError):
            return _of_draft(draft, name)
        try:
            problem = self._problem(checkpoint, draft, walk)
        except LoadError as error:
            return _of_draft(error, name)
        if problem is None:
            return replace(checkpoint, draft=draft)
        words = f"draft_model {name}: {problem}"
        return LoadError(Problem(Reason.INVALID_DRAFT_MODEL, words, param="draft_model"))

    def _problem(self, checkpoint: Checkpoint, draft: Checkpoint, walk: Walk) -> str | None:
        """Reason why a model cannot draft. Raises `LoadError` if tokens cannot be read."""
        if checkpoint.embedder is not None:
            return "the model creates embeddings and generates no text, so it uses no draft model"
        if draft.embedder is not None:
            return "it creates embeddings and generates no text"
        own, other = self._tokens_of(checkpoint, walk), self._tokens_of(draft, walk)
        if own == other:
            return None
        if own.count != other.count:
            return f"its tokenizer has {other.count} tokens, the model's has {own.count}"
        return f"its {own.count} tokens have other texts or ids than the model's"

    def _tokens_of(self, checkpoint: Checkpoint, walk: Walk) -> Tokens:
        fingerprint, tokens = self._tokens.get(checkpoint.path, ("", None))
        if tokens is None or fingerprint != checkpoint.fingerprint:
            path = Path(checkpoint.path)
            (result,) = walk.results(read_tokens, [path])
            if isinstance(result, BaseException):
                raise error_of(result, path)
            tokens = result
            self._tokens[checkpoint.path] = (checkpoint.fingerprint, tokens)
        return tokens


def _of_draft(error: LoadError, name: str) -> LoadError:
    """Convert the error of a model into that of a draft model."""
    words = error.problem.message.replace(f"Model {name}", f"Draft model {name}", 1)
    return LoadError(replace(problem_of(Part.DRAFT, error.problem), message=words))
