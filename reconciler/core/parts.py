"""Keys of a spec that each name a model on disk: the model, its adapter and its draft model."""

from collections.abc import Mapping
from dataclasses import replace
from enum import StrEnum

from reconciler.core.errors import Problem, Reason
from reconciler.core.records import ModelRef


class Part(StrEnum):
    """A key of a spec that names a model on disk, in the order in which they are looked up."""

    MODEL = "model"
    ADAPTER = "adapter"
    DRAFT = "draft_model"

    @property
    def words(self) -> str:
        """The part as a phrase for messages."""
        return self.value.replace("_", " ")


_REASONS: Mapping[Part, Mapping[Reason, Reason]] = {
    Part.MODEL: {},
    Part.ADAPTER: {
        Reason.MODEL_NOT_FOUND: Reason.ADAPTER_NOT_FOUND,
        Reason.INVALID_CHECKPOINT: Reason.INVALID_ADAPTER,
    },
    Part.DRAFT: {
        Reason.MODEL_NOT_FOUND: Reason.DRAFT_MODEL_NOT_FOUND,
        Reason.INVALID_CHECKPOINT: Reason.INVALID_DRAFT_MODEL,
    },
}
"""Reasons of a part for the reasons of a model."""

_MISSING = {
    Reason.MODEL_NOT_FOUND: Part.MODEL,
    Reason.ADAPTER_NOT_FOUND: Part.ADAPTER,
    Reason.DRAFT_MODEL_NOT_FOUND: Part.DRAFT,
}


def parts_of(ref: ModelRef) -> dict[Part, ModelRef]:
    """The parts that `ref` names, each as a model of its own."""
    if ref.adapter is None and ref.draft is None:  # thousands are looked up at a time
        return {Part.MODEL: ref}
    named = {Part.ADAPTER: ref.adapter, Part.DRAFT: ref.draft}
    others = {part: ModelRef(name) for part, name in named.items() if name is not None}
    return {Part.MODEL: ref.base, **others}


def missing_part(problem: Problem) -> Part | None:
    """The part that is not on disk, if that is the problem."""
    return _MISSING.get(problem.reason)


def problem_of(part: Part, problem: Problem) -> Problem:
    """Convert the problem of a model into that of a part: reason and key."""
    reason = _REASONS[part].get(problem.reason, problem.reason)
    return replace(problem, reason=reason, param=part.value)


def to_download(ref: ModelRef, problem: Problem) -> Problem:
    """Convert the problem of a part that is not on disk into a wait for its download."""
    part = missing_part(problem)
    if part is None:
        return problem
    words = f"{part.words} {parts_of(ref)[part].model} is not on disk; it is downloaded first"
    return Problem(Reason.DOWNLOADING, words, permanent=False, param=part.value)
