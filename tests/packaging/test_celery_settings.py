"""Which module Celery's settings come from."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OWN = "from card_worker.celery_settings import *\nworker_prefetch_multiplier = 7\n"
NAMED = pytest.mark.parametrize(
    ("option", "variable"),
    [(["--config", "own"], {}), ([], {"CELERY_CONFIG_MODULE": "own"})],
    ids=["option", "variable"],
)


def prefetch_multiplier(folder: Path, *options: str, **variables: str) -> int:
    """Return the value of one setting, as Celery reports it when it is started in a folder."""
    broker = {"CARD_WORKER_BROKER_URL": "redis://127.0.0.1:1/0"}
    done = subprocess.run(
        [sys.executable, "-m", "celery", "-A", "card_worker", *options, "report"],
        cwd=folder,
        env={"PATH": os.defpath} | broker | variables,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    found = re.search(r"^worker_prefetch_multiplier: (\d+)$", done.stdout, re.MULTILINE)
    assert found, done.stdout + done.stderr
    return int(found[1])


@NAMED
def test_a_module_that_is_named_is_loaded(
    option: list[str], variable: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "own.py").write_text(OWN)
    assert prefetch_multiplier(tmp_path, *option, **variable) == 7


def test_a_module_that_is_not_named_is_not_loaded(tmp_path: Path) -> None:
    (tmp_path / "celeryconfig.py").write_text(OWN)
    assert prefetch_multiplier(tmp_path) == 500


def test_the_file_at_the_top_of_the_repository_has_the_settings_of_the_package() -> None:
    assert prefetch_multiplier(ROOT, "--config", "celeryconfig") == 500
