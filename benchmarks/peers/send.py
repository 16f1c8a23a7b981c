"""`python -m benchmarks.peers.send MODULE TASK FIRST COUNT`: put messages on a peer's queue."""

import sys
from importlib import import_module

from benchmarks.commands import command


def main(module: str, task: str, first: int, count: int) -> None:
    """Send the commands with `count` numbers from `first` on."""
    commands = [command(number) for number in range(first, first + count)]
    import_module(f"benchmarks.peers.{module}").send(task, commands)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
