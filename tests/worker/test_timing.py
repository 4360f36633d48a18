"""Test the durations of the parts of a completion, on a fake clock."""

from reconciler.worker.timing import Timing


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_parts_begin_and_end_when_they_are_noted() -> None:
    clock = Clock()
    timing = Timing(3.0, clock)
    assert (timing.prompt, timing.first_token, timing.generation) == (0, 0, 0)
    for seconds, note in (
        (1, timing.start),
        (2, timing.note_read),
        (4, timing.note_read),
        (5, timing.note_token),
        (9, timing.note_read),  # a preempted request prefills its own answer again
        (10, timing.note_token),
    ):
        clock.now = 100.0 + seconds
        note()
    clock.now = 111.0
    assert (timing.waited, timing.total) == (3, 14)
    assert (timing.prompt, timing.first_token, timing.generation) == (3, 4, 6)


def test_the_prompt_time_of_a_cached_prompt_lasts_until_the_first_token() -> None:
    clock = Clock()
    timing = Timing(clock=clock)
    timing.start()
    clock.now += 2
    timing.note_token()
    assert (timing.prompt, timing.first_token, timing.generation) == (2, 2, 2)
