"""The first five minutes are as docs/first-five-minutes.md says."""

import pytest

from docs import transcript


def masked(page: str) -> list[str]:
    return [line.strip() for line in transcript.masked(page).splitlines()]


@pytest.mark.long
def test_the_first_five_minutes_are_as_the_docs_tell_them() -> None:
    assert masked(transcript.written()) == masked(transcript.PAGE.read_text("utf-8"))
