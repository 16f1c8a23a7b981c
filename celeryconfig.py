"""Celery's settings, all of them. What differs between installations comes from CARD_WORKER_*.

A `celeryconfig.py` in the folder that `celery` is started from takes the place of this one.
"""

import os

from kombu.entity import Exchange, Queue

from card_worker.contracts.commands import QUEUES, SWEEPS
from card_worker.contracts.queries import QUERY_QUEUES
from card_worker.settings import WrongSetting, load_settings
from card_worker.transport import TRANSPORT
from card_worker.worker.beat import every

# Celery obeys these before any setting. Worker and relay could then look at different servers, and
# the password of one server would go to another.
for _name in ("BROKER_URL", "BROKER_READ_URL", "BROKER_WRITE_URL", "RESULT_BACKEND"):
    if f"CELERY_{_name}" in os.environ:
        raise SystemExit(f"card_worker: CELERY_{_name} is set; unset it, CARD_WORKER_* names them")

try:
    _settings = load_settings()
    _broker = _settings.broker()
except WrongSetting as wrong:
    raise SystemExit(f"card_worker: {wrong}") from None

# --- Where messages are --------------------------------------------------------------------------
# User and password stand in no URL: what shows a URL can't show them.
broker_url = _broker.broker_url
broker_user, broker_password = _broker.user, _broker.password
broker_use_ssl = _broker.tls_options
_results = _settings.result_backend_url
if _results is not None:  # else the answer is the event
    result_backend = _results.backend_url
    redis_username, redis_password = _results.user, _results.password
    redis_backend_use_ssl = _results.tls_options

broker_transport = TRANSPORT  # loses nothing, takes many at once
broker_connection_retry_on_startup = True
broker_connection_max_retries = None  # for ever: Redis comes back, and its messages with it
broker_transport_options = {
    "messages_max": _settings.group_max,
    "strict": True,  # what isn't exactly a message becomes a dead letter, as it came
    "queue_names": sorted(set(QUEUES.values())),  # messages of dead workers go nowhere else
    # Seconds. Without them a half-open connection wedges a worker for minutes.
    "socket_timeout": 5,
    "socket_connect_timeout": 3,
    "socket_keepalive": True,
    "health_check_interval": 5,
}
redis_socket_timeout = 1  # seconds; the result backend's. No group waits longer for it
redis_socket_connect_timeout = 1
redis_backend_health_check_interval = 5

# --- Queues: a till never waits behind an order of cards -----------------------------------------
task_default_queue = "cards"
# An exchange and a key of its own each: as every Celery client makes them that is only told a name.
task_queues = [Queue(name, Exchange(name), name) for name in sorted(set(QUEUES.values()))]
task_routes = {task: {"queue": queue} for task, queue in (QUEUES | QUERY_QUEUES).items()}
task_create_missing_queues = False  # a misspelt queue is an error, not a queue nobody reads

# --- What a message may be -----------------------------------------------------------------------
accept_content = ["json"]
task_serializer = "json"
result_serializer = "json"
result_accept_content = ["json"]

# --- When a message is done ----------------------------------------------------------------------
task_acks_late = True  # after the commit, never before
task_reject_on_worker_lost = True  # prefork: a killed child's message goes back
task_acks_on_failure_or_timeout = True  # the only failure is a dead letter, which is kept
task_ignore_result = False  # a producer decides by ignore_result; without a backend there is none
worker_prefetch_multiplier = _settings.group_max  # messages a process may hold: one group
worker_cancel_long_running_tasks_on_connection_loss = False  # stops workers that aren't prefork

# --- How a worker runs ---------------------------------------------------------------------------
# One process, one message at a time, a warm shutdown that takes no time. More of them run side by
# side, as processes or as containers.
worker_pool = "solo"
# For children of one parent: --pool processes --concurrency 4. Celery takes `--pool prefork` for
# its own default, and this setting goes before that.
worker_concurrency = 1
worker_consumer = "card_worker.worker.tasks:Consumer"  # unreadable messages become dead letters
worker_enable_remote_control = True  # inspection only: the worker drops what would steer it
worker_hijack_root_logger = False
worker_redirect_stdouts = False

# --- What Flower sees ----------------------------------------------------------------------------
# Flower asks for them when it starts, and every few seconds; until then nobody would listen.
worker_send_task_events = False
task_send_sent_event = False

# --- What time makes due -------------------------------------------------------------------------
timezone = "UTC"
enable_utc = True
# Keeps nothing on disk: after a restart the next sweep is one interval away, which harms nobody.
beat_scheduler = "card_worker.worker.beat:Scheduler"
beat_schedule = {
    sweep: {
        "task": sweep,
        "schedule": every(_settings.sweep_interval_s),
        "options": {"retry": False},  # the scheduler sends it again itself
    }
    for sweep in SWEEPS
}
beat_max_loop_interval = 5  # seconds
