"""Times as options of the command line."""

from datetime import datetime

from pydantic_core import PydanticCustomError

from card_worker.cli.console import refuse
from card_worker.contracts.fields import read_time


def read_time_option(option: str, text: str | None) -> datetime | None:
    """Return the time that an option gives, None for None. Raises Exit for an invalid one."""
    try:
        return None if text is None else read_time(text)
    except PydanticCustomError as error:
        raise refuse(f"{option}: {text} {error.message()}", code=2) from None
