"""`card-worker send`: publish a command and show its answer."""

from functools import cache
from typing import Annotated, Any
from uuid import uuid4

from pydantic import TypeAdapter, ValidationError
from typer import Argument, Exit, Option, Typer

from card_worker.cli.connections import Key, open_client
from card_worker.cli.console import (
    TIMEOUT_S_MAX,
    AsJson,
    err,
    explanation,
    plural,
    print_json,
    print_views,
    refuse,
    table,
)
from card_worker.contracts.commands import APPLY, COMMANDS
from card_worker.contracts.enums import EventType
from card_worker.contracts.envelope import LEVELS_MAX, MESSAGE_BYTES_MAX
from card_worker.contracts.json_text import NotJson, read_json
from card_worker.contracts.queries import QUERIES
from card_worker.wording import suggestion

app = Typer()

ANSWER_TIMEOUT_S = 30.0


@app.command()
def send(
    task: Annotated[str, Argument(help="The command, such as cards.activate.")],
    fields: Annotated[
        list[str] | None, Argument(metavar="KEY=VALUE ...", help="The fields.")
    ] = None,
    *,
    wait: Annotated[bool, Option("--wait", help="Wait for the answer and show it.")] = False,
    timeout: Annotated[
        float, Option(min=0, max=TIMEOUT_S_MAX, help="Longest time to wait, in seconds.")
    ] = ANSWER_TIMEOUT_S,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Publish a command. A value is text, or JSON where the field is not text.

    card-worker send cards.activate account_id=T00000001 card_id=card-01 amount=500 currency=NOK

    Exit 1 when the answer is a refusal, or does not come in time.
    """
    values = _read_fields(task, fields or [])
    sent = _ids(task, values)
    command_ids = [command_id for _, command_id in sent]
    with open_client(key) as client:
        after = client.newest() if wait else ""
        client.publish(task, values, message_id=command_ids[0] if task != APPLY else None)
        if not wait:
            if as_json:
                print_json({"task": task, "command_ids": command_ids})
            else:
                err.print(f"sent {task}, command_id {', '.join(command_ids)}")
            return
        found = client.answers_of_accounts(sent, after=after, timeout_s=timeout)
    answers = [found[key] for key in sent if key in found]
    if answers:
        rows, columns = map(_row, answers), ("type", "about", "")
        print_views(answers, table("Answers", *columns, rows=rows), as_json=as_json)
    if missing := len(sent) - len(answers):
        raise refuse(
            f"{missing} of {plural(len(sent), 'answer')} did not come within {timeout:g} s. Do a"
            " worker and the relay run? A message that can't be read or answered is a dead letter:"
            " see `card-worker dead-letters list`"
        )
    if any(answer["type"] == "command.rejected" for answer in answers):
        raise Exit(1)


def _read_fields(task: str, pairs: list[str]) -> dict[str, Any]:
    if task not in COMMANDS and task != APPLY:
        if task in QUERIES:
            raise refuse(f"{task} is a query: use card-worker card or batch", code=2)
        known = suggestion(task, [*COMMANDS, APPLY])
        raise refuse(f"there is no command {task}{known}", code=2)
    fields = ["commands"]
    if task != APPLY:
        fields = [name for name in COMMANDS[task].model_fields if name != "command"]
    values: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise refuse(f"{pair} is not KEY=VALUE", code=2)
        if name not in fields:
            raise refuse(f"{task} has no field {name}{suggestion(name, fields)}", code=2)
        values[name] = value_of(task, name, value)
    if task != APPLY:
        if "account_id" not in values:
            raise refuse("account_id is missing: the command could not be answered", code=2)
        values.setdefault("command_id", str(uuid4()))
    return values


def value_of(task: str, name: str, text: str) -> Any:
    """Return the value of a field: `text` if the field takes it, else `text` read as JSON.

    Text that a worker would not accept as JSON, such as deeply nested lists, stays text.
    """
    adapter = _adapter(task, name)
    if adapter is not None:
        try:
            adapter.validate_python(text)
        except ValidationError:
            pass
        else:
            return text
    raw = text.encode("utf-8", "surrogatepass")
    try:
        return read_json(raw, bytes_max=MESSAGE_BYTES_MAX, levels_max=LEVELS_MAX)
    except NotJson:
        return text


@cache
def _adapter(task: str, name: str) -> TypeAdapter[Any] | None:
    field = COMMANDS[task].model_fields.get(name) if task in COMMANDS else None
    return None if field is None else TypeAdapter(field.rebuild_annotation())


def _ids(task: str, values: dict[str, Any]) -> list[tuple[str, str]]:
    """Return account_id and command_id of each command, in their order."""
    if task != APPLY:
        return [(str(values["account_id"]), str(values["command_id"]))]
    commands = values.get("commands")
    if not isinstance(commands, list) or not commands:
        raise refuse("commands is missing, empty, or not a JSON list", code=2)
    for number, command in enumerate(commands, 1):
        if not isinstance(command, dict) or not command.get("command_id"):
            raise refuse(f"command {number} has no command_id, which its answer names", code=2)
    ids = ((str(each.get("account_id")), str(each["command_id"])) for each in commands)
    return list(dict.fromkeys(ids))


def _row(answer: dict[str, Any]) -> tuple[str, str, str]:
    data = answer["data"]
    if first := data.get("event"):  # answered before, under another command_id
        kind, subject, outcome = _row(first)
        return f"{answer['type']}: {kind}", subject, outcome
    if answer["type"] == "command.rejected":
        outcome = f"{data['reason']}: {explanation(data)}"
    elif card := data.get("card"):
        outcome = f"version {data['version']}, {card['status']}"
    else:
        is_begun = answer["type"] in (EventType.BATCH_ACCEPTED, EventType.BATCH_AWAITING_APPROVAL)
        count = "requested" if is_begun else "created"
        outcome = f"{plural(data[count], 'card')} {count}"
    return answer["type"], answer["subject"], outcome
