"""Counts the messages that do nothing: a byte for each, in a file that all processes share."""

import os

_file = os.open(os.environ["BENCH_COUNT_FILE"], os.O_WRONLY | os.O_APPEND)


def count(messages: int = 1) -> None:
    os.write(_file, b"." * messages)
