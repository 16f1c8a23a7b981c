"""What production installs is enough for every part; no developer's tool stands in for it."""

import re
import subprocess
import sys
from pathlib import Path

from card_worker.cli import COMMANDS

ROOT = Path(__file__).parents[2]
LOCKED = re.findall(
    r"^([a-z0-9-]+)==", (ROOT / "requirements-runtime.lock").read_text(), re.MULTILINE
)

IMPORT = """
import importlib, re, sys
from importlib.metadata import packages_distributions

locked, *modules = set(sys.argv[1].split()), *sys.argv[2:]
names = {
    name: {re.sub(r"[-_.]+", "-", owner).lower() for owner in owners}
    for name, owners in packages_distributions().items()
}

class OnlyLocked:
    def find_spec(self, name, path=None, target=None):
        owners = names.get(name.partition(".")[0])
        if owners and not owners & locked:
            raise ModuleNotFoundError(f"not in the lock: {name}", name=name)

sys.meta_path.insert(0, OnlyLocked())
for module in modules:
    importlib.import_module(module)
"""
"""Imports modules as if only what is locked for production were installed."""


MODULES = [
    *sorted({f"card_worker.cli.{module}" for module, _ in COMMANDS.values()}),
    *("card_worker.worker.tasks", "card_worker.client"),
    *("card_worker.relay", "card_worker.sinks", "card_worker.storage.migrations"),
    *("card_worker.celery_settings", "celery.bin.celery", "kombu.transport.redis"),
    *("flower.command", "sentry_sdk", "psycopg", "sqlalchemy.dialects.postgresql.psycopg"),
]


def test_production_has_all_that_a_part_imports(tmp_path: Path) -> None:
    settings = {
        "CARD_WORKER_DATABASE_URL": f"sqlite:///{tmp_path}/cards.sqlite3",
        "CARD_WORKER_BROKER_URL": "redis://127.0.0.1:1/0",
    }
    ran = subprocess.run(
        [sys.executable, "-c", IMPORT, " ".join([*LOCKED, "card-worker"]), *MODULES],
        cwd=tmp_path,
        env=settings,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
