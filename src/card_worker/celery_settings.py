"""Celery's settings. Values that differ between installations come from CARD_WORKER_*.

To change others, write a module that begins with `from card_worker.celery_settings import *`, and
name it in CELERY_CONFIG_MODULE or with `celery --config`.
"""

import os

from kombu.entity import Exchange, Queue

from card_worker.contracts.commands import QUEUES, SWEEP_OLD, SWEEPS
from card_worker.contracts.queries import QUERY_QUEUES
from card_worker.settings import WrongSetting, load_settings
from card_worker.transport import TRANSPORT
from card_worker.worker.beat import every

# Celery prefers these to any setting. Worker and relay could then use different servers, and the
# password of one server could go to another.
for _name in ("BROKER_URL", "BROKER_READ_URL", "BROKER_WRITE_URL", "RESULT_BACKEND"):
    if f"CELERY_{_name}" in os.environ:
        raise SystemExit(f"card_worker: CELERY_{_name} is set: unset it, use CARD_WORKER_*")

try:
    _settings = load_settings()
    _broker = _settings.broker()
    _also = [_settings.also_consume] if _settings.also_consume else []
except WrongSetting as wrong:
    raise SystemExit(f"card_worker: {wrong}") from None

# --- Addresses --------------------------------------------------------------------------------
# User and password are not part of a URL, so that no log of a URL holds them.
broker_url = _broker.broker_url
broker_user, broker_password = _broker.user, _broker.password
broker_use_ssl = _broker.tls_options
# Without a backend, only queries have results: commands are answered by events.
_results = _settings.result_backend_url or _broker
result_backend = _results.backend_url
result_expires = 24 * 3600 if _settings.result_backend_url else 3600  # seconds
redis_username, redis_password = _results.user, _results.password
redis_backend_use_ssl = _results.tls_options

broker_transport = TRANSPORT
broker_connection_retry_on_startup = True
broker_connection_max_retries = None  # unlimited
broker_transport_options = {
    "messages_max": _settings.group_max,
    "strict": True,  # an invalid message becomes a dead letter, unchanged
    # The queues to which the messages of a dead worker may return.
    "queue_names": sorted({*QUEUES.values(), *_also}),
    # Seconds. Without them a half-open connection blocks a worker for minutes.
    "socket_timeout": 5,
    "socket_connect_timeout": 3,
    "socket_keepalive": True,
    "health_check_interval": 5,
}
redis_socket_timeout = 1  # seconds that a group waits for the result backend
redis_socket_connect_timeout = 1
redis_backend_health_check_interval = 5

# --- Queues: a sale never waits behind an order of cards -----------------------------------------
task_default_queue = "cards"
# The same exchange and routing key that any Celery client declares for a queue.
task_queues = [Queue(name, Exchange(name), name) for name in sorted(set(QUEUES.values()))]
task_routes = {task: {"queue": queue} for task, queue in (QUEUES | QUERY_QUEUES).items()}
task_create_missing_queues = False  # a misspelt queue is an error

accept_content = ["json"]

# --- Acknowledgement --------------------------------------------------------------------------
task_acks_late = True  # after the commit
task_reject_on_worker_lost = True  # prefork: the message of a killed child goes back
task_acks_on_failure_or_timeout = True  # a failed message is stored as a dead letter
worker_prefetch_multiplier = _settings.group_max  # one group
worker_cancel_long_running_tasks_on_connection_loss = False  # it would stop the solo pool

# --- Worker --------------------------------------------------------------------------------------
# One process that handles one group at a time. To scale, run more workers.
worker_pool = "solo"
# For child processes: --pool processes --concurrency 4. `--pool prefork` has no effect: for Celery
# it means the default, which the setting above overrides.
worker_concurrency = 1
worker_consumer = "card_worker.worker.tasks:Consumer"  # unreadable messages become dead letters
worker_enable_remote_control = True  # inspection only; other commands are ignored
worker_hijack_root_logger = False
worker_redirect_stdouts = False

# --- Monitoring ----------------------------------------------------------------------------------
# Flower turns task events on.
worker_send_task_events = False
task_send_sent_event = False

# --- Sweeps -------------------------------------------------------------------------------------
# Stores nothing on disk: after a restart the next sweep comes one interval later.
beat_scheduler = "card_worker.worker.beat:Scheduler"
beat_schedule = {
    sweep: {
        "task": sweep,
        "schedule": every(_settings.sweep_interval_s),
        # The scheduler itself retries. Without ignore_result it would subscribe to each result.
        "options": {"retry": False, "ignore_result": True},
    }
    for sweep in SWEEPS
    if sweep != SWEEP_OLD or _settings.kept_s
}
beat_max_loop_interval = 5  # seconds
