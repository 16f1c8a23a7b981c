"""Do faults to servers and parts under a load of mixed commands, and prove that nothing came of it.

python -m tests.chaos.servers --faults 60 --commands 50000 --seed 1 [--kinds a,b] [--short] [--list]
"""

import argparse
import signal
import sys
import tempfile
from pathlib import Path

from tests.chaos.servers.faults import KINDS, chosen, left_out
from tests.chaos.servers.run import run


def main() -> int:
    """Print what was seen; 1 if anything was lost, doubled, off or late, or a part ended."""
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--faults", type=int, default=60)
    options.add_argument("--commands", type=int, default=50_000)
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--kinds", default="", help="names with commas between; all without it")
    options.add_argument("--short", action="store_true", help="faults as short as in `make test`")
    options.add_argument("--list", action="store_true", help="show the kinds and do nothing")
    options.add_argument("--keep", help="a folder for data and logs, which stay there")
    asked = options.parse_args()
    # As on Ctrl-C, so that servers and parts are ended, also those that are stopped.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    names = [name for name in asked.kinds.split(",") if name]
    if unknown := [name for name in names if name not in KINDS]:
        options.error(f"no such kinds: {', '.join(unknown)}; --list shows them")
    lacks = left_out(names, is_long=not asked.short)
    if asked.list:
        for kind in KINDS.values():
            needs = f" NEEDS {lacks[kind.name]}" if kind.name in lacks else ""
            _print(f"{kind.name:28}{kind.what}{needs}")
        return 0
    for name, lack in lacks.items():
        _print(f"LEFT OUT: {name} needs {lack}")
    kinds = chosen(names, asked.faults, asked.seed, is_long=not asked.short)
    with tempfile.TemporaryDirectory(prefix="chaos-servers-") as temporary:
        folder = Path(asked.keep or temporary)
        folder.mkdir(parents=True, exist_ok=True)
        report = run(
            folder,
            kinds,
            commands=asked.commands,
            seed=asked.seed,
            is_long=not asked.short,
            say=_print,
        )
    report.left_out = lacks
    _print(str(report))
    return 1 if report.failures else 0


def _print(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
