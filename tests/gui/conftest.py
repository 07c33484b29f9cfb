"""Every window test has a display, a cache of its own and the small sample."""

from helpers.window import (
    display,
    nobody_listens_late,
    own_cache,
    small_sample,
    speaks_like_a_window,
    threads_end_soon,
    tiled_cube,
    wait_until,
)

__all__ = [
    "display",
    "nobody_listens_late",
    "own_cache",
    "small_sample",
    "speaks_like_a_window",
    "threads_end_soon",
    "tiled_cube",
    "wait_until",
]
