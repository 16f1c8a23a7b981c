"""Celery's settings, for `celery --config celeryconfig`, docker-compose.yml and `make worker`.

All come from the package. To change one, set it below the import.
"""

from card_worker.celery_settings import *  # noqa: F403
