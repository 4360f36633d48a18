"""Check the transcript in docs/first-five-minutes.md."""

import pytest

from docs import transcript


def masked(page: str) -> list[str]:
    return [line.strip() for line in transcript.masked(page).splitlines()]


@pytest.mark.long
def test_the_first_five_minutes_match_the_docs() -> None:
    assert masked(transcript.written()) == masked(transcript.PAGE.read_text("utf-8"))
