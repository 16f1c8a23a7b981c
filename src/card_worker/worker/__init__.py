"""Celery's side of the worker: tasks, groups of messages, and what becomes of each message."""
