"""The sampling parameters of a request and their bounds, without MLX."""

import re
from collections.abc import Iterable
from typing import Annotated

import msgspec

_TOKEN = re.compile(r"[0-9]{1,10}")

_Penalty = Annotated[float, msgspec.Meta(ge=-2, le=2)]
_Context = Annotated[int, msgspec.Meta(ge=-1, le=2**31 - 1)]
_Share = Annotated[float, msgspec.Meta(ge=0, le=1)]


class Sampling(msgspec.Struct):
    """OpenAI's parameters, and those that clients of local servers use in addition."""

    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] | None = None
    top_p: _Share | None = None
    top_k: Annotated[int, msgspec.Meta(ge=-1, le=2**31 - 1)] | None = None
    min_p: _Share | None = None
    xtc_probability: _Share | None = None
    xtc_threshold: _Share | None = None
    seed: Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    repetition_penalty: Annotated[float, msgspec.Meta(ge=0.01, le=10)] | None = None
    repetition_context_size: _Context | None = None
    presence_penalty: _Penalty | None = None
    presence_context_size: _Context | None = None
    frequency_penalty: _Penalty | None = None
    frequency_context_size: _Context | None = None
    logit_bias: dict[str, Annotated[float, msgspec.Meta(ge=-100, le=100)]] | None = None


def no_token(names: Iterable[str], vocabulary: int) -> str | None:
    """First name that is not a token id below `vocabulary`; None if all are."""
    return next((n for n in names if not _TOKEN.fullmatch(n) or int(n) >= vocabulary), None)
