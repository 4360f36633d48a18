"""Protect the limit of file descriptors, which mlx_lm lowers when it is imported.

mlx_lm sets a soft limit of 2,048 and a hard limit of 4,096. Workers inherit the daemon's limit, so
that each request of the daemon fits beside the files of a checkpoint. If the hard limit is below
4,096, mlx_lm's import would fail.
"""

import resource


def keep() -> None:
    """Ignore later changes of the limit. Call it before mlx_lm is imported."""
    change = resource.setrlimit

    def set_others(limit: int, values: tuple[int, int]) -> None:
        if limit != resource.RLIMIT_NOFILE:
            change(limit, values)

    resource.setrlimit = set_others
