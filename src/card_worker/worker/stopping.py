"""Whether the worker has been told to stop, known in every process of its pool.

Only the parent of a pool gets the signals and Celery's flags. Its children share a page of memory
with it, and read there that they shall end what they repeat.
"""

from mmap import mmap

from celery.worker import state

_SHARED = mmap(-1, 1)


def ask() -> None:
    """Let this process and its children stop."""
    _SHARED[0] = 1


def is_asked() -> bool:
    """Say whether this process, or its parent, has been told to stop."""
    return bool(_SHARED[0]) or (state.should_stop, state.should_terminate) != (None, None)
