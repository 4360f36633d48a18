"""Choice of how many tokens to draft, from measured acceptance and measured times.

A pass that checks k drafts yields 1 + a tokens, where a is the number of accepted drafts. If each
draft is accepted with probability p, independently, the expected number of tokens is
1 + p + ... + p^k (Leviathan et al., https://arxiv.org/abs/2211.17192, equation 1). The expected
gain is this number times the time of an ordinary step, divided by the time of the pass. `Pace`
takes the k with the largest gain.

The time that passes saved and lost is balanced. While more was lost nothing is drafted, and each
ordinary step makes good a fiftieth of itself: so drafts that are never accepted cost a fiftieth of
the time, whatever a pass costs. After that a pass is tried again.

Times and balance belong to a session (`StepTimes`), the acceptance to a request (`Pace`).
"""

from collections import deque
from statistics import median_low

from reconciler.worker.stalls import USUAL

WIDTHS = (2, 4, 8, 16)
"""Numbers of drafts to choose from. Few, so that each is measured often."""

WEIGHT = 0.2
"""Weight of the latest draft in the estimate of the acceptance."""

LATEST = 5
"""Number of times of which the median is taken."""

FIRST_ACCEPTANCE = 0.7
"""Assumed probability of acceptance at the start of a request."""

ALLOWED_LOSS = 0.02
"""Part of the time of ordinary steps that passes may lose."""

LARGEST_LOSS, LARGEST_CREDIT = 10.0, 4.0
"""Bounds of the balance [ordinary steps]: after at most 500 steps a pass is tried again, and after
passes that saved much, a few may be lost."""

PLAIN_EVERY = 64
"""A pass is replaced by an ordinary step after so many in a row, to measure the latter again: its
time grows with the context."""


class LatestMedian:
    """Median of the latest values, which single ones do not affect: the machine may be busy."""

    def __init__(self) -> None:
        self._begun = False
        self._values: deque[float] = deque(maxlen=LATEST)

    def add(self, value: float) -> None:
        """Record a value; the first one does not count, as its step compiles kernels."""
        if self._begun:
            self._values.append(value)
        self._begun = True

    @property
    def value(self) -> float:
        """The median; 0 before the second value."""
        return median_low(self._values) if self._values else 0.0


class StepTimes:
    """Times of a session's steps [s]."""

    def __init__(self) -> None:
        self._plain = LatestMedian()
        self._passes = {width: LatestMedian() for width in WIDTHS}
        self.balance = 0.0
        """Time that passes saved, less the time that they lost and that has not been made good
        [ordinary steps]."""

    @property
    def plain(self) -> float:
        """Time of a step that computes one token; 0: not measured yet."""
        return self._plain.value

    def note_plain(self, seconds: float) -> None:
        """Record an ordinary step."""
        self._plain.add(seconds)
        if self.balance < 0:
            self.balance = min(0.0, self.balance + ALLOWED_LOSS)

    def note_pass(self, width: int, tokens: int, seconds: float) -> None:
        """Record a pass that checked `width` drafts and yielded `tokens`."""
        times = self._passes[rounded(width)]
        times.add(seconds)
        steps = seconds / self.plain
        if not times.value:  # its kernels were compiled
            steps = min(steps, tokens + 1)
        balance = self.balance + tokens - steps
        self.balance = min(LARGEST_CREDIT, max(-LARGEST_LOSS, balance))

    def forfeit(self) -> None:
        """Forget the time that passes saved, since they no longer do."""
        self.balance = min(0.0, self.balance)

    @property
    def widths(self) -> tuple[int, ...]:
        """Widths to choose from: those measured, and the next larger one."""
        pairs = zip(WIDTHS[1:], WIDTHS, strict=False)
        return (WIDTHS[0], *(width for width, smaller in pairs if self._passes[smaller].value))

    def of(self, width: int) -> float:
        """Expected time of a pass with `width` drafts, one of `widths`; at least `plain`.

        A wider pass takes no less, and no more than in proportion: so a measurement that other work
        on the machine disturbed does not count, although it may not be repeated. The time of a
        width without measurements is assumed to be that of the next smaller one.
        """
        known = {w: one.value for w, one in self._passes.items() if one.value}
        if width not in known:
            return max(self.plain, *(t for w, t in known.items() if w < width), 0.0)
        return max(self.plain, min(t * max(1.0, width / w) for w, t in known.items()))


def rounded(width: int) -> int:
    """The largest of `WIDTHS` that is at most `width`; else the smallest."""
    return max((w for w in WIDTHS if w <= width), default=WIDTHS[0])


class Pace:
    """Chooses the number of drafts for one request."""

    def __init__(self, times: StepTimes) -> None:
        self.times = times
        self.acceptance = FIRST_ACCEPTANCE
        """Estimated probability that a draft is accepted."""
        self._in_a_row = 0

    def gain(self, width: int) -> float:
        """Expected tokens per second with `width` drafts, as a multiple of an ordinary step's."""
        p = self.acceptance
        tokens = (1 - p ** (width + 1)) / (1 - p) if p < 1 else width + 1
        return tokens * self.times.plain / self.times.of(width)

    @property
    def rests(self) -> bool:
        """True if the next step should be an ordinary one, even if there are drafts."""
        return not self.times.plain or self.times.balance < 0 or self._in_a_row >= PLAIN_EVERY

    def choose(self) -> int:
        """Choose the number of tokens to draft: a pass is to fit any stall budget."""
        times = self.times
        fitting = [width for width in times.widths if times.of(width) <= USUAL * times.plain]
        return max(fitting or WIDTHS[:1], key=self.gain)

    def note_plain(self) -> None:
        """Record an ordinary step."""
        self._in_a_row = 0

    def note_pass(self, drafted: int, accepted: int, tokens: int, seconds: float) -> None:
        """Record a pass: its drafts, those accepted, the tokens that it yielded, and its time
        including the drafts' making.

        It yields no token of its own if a choice was unsure, which an ordinary step then makes.
        """
        self._in_a_row += 1
        trials = min(accepted + 1, drafted)  # the drafts after the first wrong one say nothing
        weight = 1 - (1 - WEIGHT) ** trials
        self.acceptance += weight * (accepted / trials - self.acceptance)
        self.times.note_pass(drafted, tokens, seconds)
        if max(map(self.gain, self.times.widths)) < 1:
            self.times.forfeit()
