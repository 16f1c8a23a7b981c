"""`python -m benchmarks`: measure everything side by side, show it, and say whether it will do.

Exits with 1 when a target is missed, with 2 when a contestant did not do its work.
"""

import argparse
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.measures import (
    activations,
    latency,
    limit,
    nothing,
    orders,
    producers,
    refusals,
    sweep,
    table_size,
)
from benchmarks.programs import Failed
from benchmarks.results import Result, save, table
from benchmarks.rounds import Size, say
from benchmarks.stage import Stage, stage
from card_worker.embedded.stack import FOREIGN

RESULTS = Path(__file__).parent / "results" / "latest.json"

Measure = Callable[[Stage, Size], list[Result]]

MEASURES: dict[str, Measure] = {
    "activations": activations.run,
    "nothing": nothing.run,
    "limit": limit.run,
    "latency": latency.run,
    "table-size": table_size.run,
    "producers": producers.run,
    "orders": orders.run,
    "sweep": sweep.run,
    "refusals": refusals.run,
}

FULL = Size(rounds=3, scale=1.0)
QUICK = Size(rounds=1, scale=0.2)


def main() -> int:
    """Measure what was asked for; return the exit status."""
    options = _read_options()
    size = QUICK if options.quick else FULL
    if options.rounds:
        size = Size(options.rounds, size.scale)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    for name in [name for name in os.environ if name.startswith(FOREIGN)]:
        del os.environ[name]
    results: list[Result] = []
    status = 0
    try:
        with stage() as running:
            for name in options.only:
                say(name)
                results += MEASURES[name](running, size)
            if size.scale == FULL.scale and set(options.only) == set(MEASURES):
                save(RESULTS, results, running.versions())
            else:
                say(f"{RESULTS.name} stays: this was a part, or a little, of what it holds")
    except Failed as failure:
        say(f"benchmarks: {failure}")
        status = 2
    except KeyboardInterrupt:
        say("benchmarks: stopped")
        status = 128 + signal.SIGINT
    sys.stdout.write(f"{table(results)}\n")
    return status or int(any(one.met is False for one in results))


def _read_options() -> argparse.Namespace:
    options = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    options.add_argument("--quick", action="store_true", help="a little of everything, to try out")
    options.add_argument("--rounds", type=int, help=f"instead of {FULL.rounds}")
    options.add_argument(
        "--only",
        type=_names,
        default=list(MEASURES),
        metavar="NAME[,NAME]",
        help=", ".join(MEASURES),
    )
    return options.parse_args()


def _names(given: str) -> list[str]:
    names = given.split(",")
    if unknown := set(names) - set(MEASURES):
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: choose from {', '.join(MEASURES)}")
    return names


def _interrupt(*_: object) -> None:
    """Stop, and let nobody interrupt the tidying up."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
