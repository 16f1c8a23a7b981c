"""`card-worker contract`: write the reference that is generated from the models and rules."""

import json
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Typer

from card_worker.cli.console import out
from card_worker.cli.files import replace_file
from card_worker.contracts.commands import COMMANDS
from card_worker.contracts.enums import EventType
from card_worker.contracts.queries import QUERIES
from card_worker.reference.asyncapi import asyncapi
from card_worker.reference.contract import contract_page
from card_worker.reference.events import events_page
from card_worker.reference.schemas import command_schema, event_schema
from card_worker.reference.signatures import signatures
from card_worker.reference.states import states_page
from card_worker.settings import PREFIX, Settings

app = Typer()


@app.command()
def contract(
    folder: Annotated[Path, Argument(help="The folder for the files.")] = Path("docs/reference"),
) -> None:
    """Write the pages of the contract, the JSON Schemas, the AsyncAPI document and the test vectors
    of signatures."""
    files = reference_files()
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, text)
    out.print(f"{len(files)} files are in {folder}", soft_wrap=True)


def reference_files() -> dict[str, str]:
    """Return the content of the reference by file name."""
    schemas = {f"schemas/commands/{task}.json": command_schema(task) for task in COMMANDS}
    schemas |= {f"schemas/queries/{task}.json": command_schema(task) for task in QUERIES}
    schemas |= {f"schemas/events/{type}.json": event_schema(type) for type in EventType}
    return {
        "contract.md": contract_page(_settings()),
        "events.md": events_page(),
        "states.md": states_page(),
        "signatures.json": _json(signatures()),
        "asyncapi.json": _json(asyncapi(version("card-worker"))),
        **{name: _json(schema) for name, schema in schemas.items()},
    }


def _settings() -> list[tuple[str, str, str]]:
    return [
        (
            f"`{PREFIX}{name.upper()}`",
            "none" if field.default is None else f"`{field.default}`",
            field.description or "",
        )
        for name, field in Settings.model_fields.items()
    ]


def _json(value: dict[str, Any]) -> str:
    return f"{json.dumps(value, indent=2, ensure_ascii=False)}\n"
