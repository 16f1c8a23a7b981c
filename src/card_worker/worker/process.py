"""What each process of a worker has once: its engine, writer of files, vault and health."""

import os
from functools import cache
from typing import Any

from celery import signals
from sqlalchemy import Engine

from card_worker.file_store import FileStore
from card_worker.files import FileWriter
from card_worker.health import Health
from card_worker.secrets.vault import Vault
from card_worker.settings import load_settings
from card_worker.storage.engine import open_engine
from card_worker.worker import tracing

FILE_S_MAX = 2.0
"""Seconds for which a worker that stops waits for a file that is being written."""


def engine() -> Engine:
    # One for each process: processes must not share connections.
    return _engine_of(os.getpid())


@cache
def _engine_of(_pid: int) -> Engine:
    return open_engine(load_settings().database())


@cache
def _files_of(_pid: int) -> FileWriter:
    return FileWriter(engine(), FileStore(load_settings().files_url))


def put_files() -> None:
    # The writer is a thread, which does not survive a fork.
    _files_of(os.getpid()).wake()


@cache
def has_spans() -> bool:
    return load_settings().traces


@signals.worker_shutdown.connect
@signals.worker_process_shutdown.connect
def _on_shutdown(**_: Any) -> None:
    tracing.close()
    if _files_of.cache_info().currsize:
        _files_of(os.getpid()).close(within_s=FILE_S_MAX)


@cache
def health() -> Health:
    return Health(load_settings().stalled_s)


@cache
def vault() -> Vault:
    return load_settings().vault()
