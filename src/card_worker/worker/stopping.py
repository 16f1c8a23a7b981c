"""Whether the worker has been told to stop, known in every process of its pool.

Only the parent of a pool gets signals and sets Celery's flags. Its children share a page of memory
with it, from which they read that they have to stop retrying.
"""

from mmap import mmap

from celery.worker import state

_SHARED = mmap(-1, 1)


def request() -> None:
    """Tell this process and its children to stop."""
    _SHARED[0] = 1


def is_requested() -> bool:
    """Say whether this process, or its parent, has been told to stop."""
    return bool(_SHARED[0]) or (state.should_stop, state.should_terminate) != (None, None)
