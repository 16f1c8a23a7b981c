"""Saying no."""

from card_worker.contracts.events import Problem
from card_worker.contracts.kinds import Reason


class Refused(Exception):
    """A rule says no."""

    def __init__(self, reason: Reason, *problems: Problem) -> None:
        super().__init__(reason)
        self.reason, self.problems = reason, problems
