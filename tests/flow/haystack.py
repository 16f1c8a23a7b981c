"""Searches for known values in everything that is left behind: plain, in base64, hex, reversed."""

import base64
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

from sqlalchemy import Engine, inspect, select, table, text


def forms(value: str) -> Iterator[bytes]:
    """Yield what a value looks like, or a part of it, wherever it may stand."""
    raw = value.encode()
    yield raw
    yield raw[::-1]
    yield raw.hex().encode()
    yield raw.hex().upper().encode()
    # In base64 a value looks in three ways, after its place among the bytes around it. The first
    # and the last characters depend on its neighbours.
    for before in range(3):
        encoded = base64.b64encode(bytes(before) + raw).rstrip(b"=")
        yield encoded[0 if before == 0 else 4 : len(encoded) // 4 * 4]


class Haystack:
    """Folders, and a file for what isn't one. Files are searched as bytes."""

    def __init__(self, folder: Path, needles: Iterable[str]) -> None:
        self._folder = folder
        folder.mkdir()
        self._needles = folder.parent / f"{folder.name}-needles"
        self._needles.write_bytes(b"\n".join(one for value in needles for one in forms(value)))

    def add(self, name: str, text: str) -> None:
        """Put in what isn't a file."""
        (self._folder / name).write_text(text, errors="surrogateescape")

    def add_rows(self, engine: Engine) -> None:
        """Put in all rows of a database: in its files, long ones are packed."""
        with engine.connect() as connection:
            for name in inspect(connection).get_table_names():
                with (self._folder / f"rows-{name}").open("w") as file:
                    for row in connection.execute(select(text("*")).select_from(table(name))):
                        file.writelines(
                            bytes(cell).decode("latin-1") if isinstance(cell, bytes) else str(cell)
                            for cell in row
                        )

    def finds(self, *places: Path) -> list[str]:
        """Return the files in which one of the needles stands, here or below these places."""
        searched = subprocess.run(
            ["/bin/grep", "-r", "-l", "-a", "-F", "-f", str(self._needles), self._folder, *places],
            env={"LC_ALL": "C", "PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
            check=False,
        )
        # A file that is gone while it is searched is no failure of the search.
        assert searched.returncode in (0, 1, 2), searched.stderr
        assert searched.returncode != 2 or "No such file" in searched.stderr, searched.stderr
        return searched.stdout.splitlines()
