"""The limit of file descriptors, which mlx_lm lowers at its import.

It sets 2,048, and 4,096 for good. The daemon gives workers its own limit, so that each of its
requests fits beside the files of a checkpoint; and where the hard limit is below 4,096, mlx_lm's
import would fail.
"""

import resource


def keep() -> None:
    """Leave the limit as it is, whoever sets another one. Call it before mlx_lm is imported."""
    change = resource.setrlimit

    def set_others(limit: int, values: tuple[int, int]) -> None:
        if limit != resource.RLIMIT_NOFILE:
            change(limit, values)

    resource.setrlimit = set_others
