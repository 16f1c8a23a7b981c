"""The exception that refuses a command."""

from card_worker.contracts.enums import Reason
from card_worker.contracts.views import Problem


class Refused(Exception):
    """A rule refuses the command."""

    def __init__(self, reason: Reason, *problems: Problem) -> None:
        super().__init__(reason)
        self.reason, self.problems = reason, problems
