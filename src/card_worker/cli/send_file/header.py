"""The header of a CSV file: the names of the columns."""

import csv
from collections import Counter
from collections.abc import Iterator, Sequence

from card_worker.cli.send_file.text import REASON, Unusable
from card_worker.contracts.commands import COMMANDS
from card_worker.wording import suggestion

NUMBERS_NAMED_MAX = 10


def read_header(rows: Iterator[list[str]], task: str) -> list[str]:
    """Return the names of the columns as they are written, in any case.

    Blank lines and a line `sep=` before the header are skipped. A column may have no name if its
    cells are empty. Raises Unusable.
    """
    try:
        names = next((row for row in rows if _is_header(row)), [])
    except csv.Error as error:
        raise Unusable(f"its header can't be read: {csv_problem(error)}") from None
    fields = COMMANDS[task].model_fields
    names = [name.strip() for name in names]
    known = [name.lower() for name in names]
    count = Counter(known)
    unknown = [number for number, name in enumerate(known, 1) if name not in {*fields, "", REASON}]
    if unknown:
        are, wrong = "are no fields", ""
        if len(unknown) == 1:
            are, wrong = "is no field", known[unknown[0] - 1]
        hint = suggestion(wrong, (name for name in fields if name != "command"))
        raise Unusable(f"{numbered('column', unknown)} of the header {are} of {task}{hint}")
    repeated = [number for number, name in enumerate(known, 1) if name and count[name] > 1]
    if repeated:
        raise Unusable(f"{numbered('column', repeated)} of the header name a field more than once")
    return names


def _is_header(row: Sequence[str]) -> bool:
    return any(cell.strip() for cell in row) and not row[0].lower().startswith("sep=")


def csv_problem(error: csv.Error) -> str:
    """Return what is wrong with a line of a CSV file."""
    # The text for this case is about the mode in which Python opened the file.
    return "a CR without an LF" if "new-line character" in str(error) else str(error)


def numbered(noun: str, numbers: Sequence[int]) -> str:
    """Return a noun with numbers, such as `columns 1, 3 and 5`; of many, only the first ten."""
    *most, last = [f"{number}" for number in numbers[:NUMBERS_NAMED_MAX]]
    if len(numbers) > NUMBERS_NAMED_MAX:
        most, last = [*most, last], f"{len(numbers) - NUMBERS_NAMED_MAX:,} more"
    return f"{noun}s {', '.join(most)} and {last}" if most else f"{noun} {last}"
