"""`card-worker send`: publish a command and show its answer."""

from typing import Annotated, Any
from uuid import uuid4

import typer
from pydantic import TypeAdapter, ValidationError

from card_worker.cli.console import TIMEOUT_S_MAX, AsJson, err, out, print_json, refuse, table
from card_worker.contracts.commands import APPLY, COMMANDS
from card_worker.contracts.envelope import LEVELS_MAX, MESSAGE_BYTES_MAX
from card_worker.contracts.json_text import NotJson, read_json
from card_worker.settings import load_settings

LATE_S = 30.0


def send(
    task: Annotated[str, typer.Argument(help="The command, such as cards.activate.")],
    fields: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE ...", help="Its fields.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the answer and show it.")] = False,
    timeout: Annotated[
        float, typer.Option(min=0, max=TIMEOUT_S_MAX, help="Seconds to wait at most.")
    ] = LATE_S,
    as_json: AsJson = False,
) -> None:
    """Publish a command. A value is text, or JSON where the field is not text.

    card-worker send cards.activate account_id=T00000001 card_id=card-01 amount=500 currency=NOK

    Exit 1 when the answer is a refusal, or doesn't come in time.
    """
    asked = _fields(task, fields or [])
    settings = load_settings()
    # Last, since it takes long to load.
    from card_worker.client import Client

    with Client(
        settings.broker(), events_url=settings.events_url, stream=settings.event_stream
    ) as client:
        command_ids = _command_ids(task, asked)
        after = client.newest() if wait else ""
        client.publish(task, asked, message_id=command_ids[0] if task != APPLY else None)
        if not wait:
            _say_sent(task, command_ids, as_json=as_json)
            return
        answers = client.answers(command_ids, after=after, timeout_s=timeout)
    if as_json:
        for answer in answers.values():
            print_json(answer)
    elif answers:
        out.print(table("Answers", "type", "about", "", rows=map(_row, answers.values())))
    if len(answers) < len(command_ids):
        missing = len(command_ids) - len(answers)
        raise refuse(
            f"{missing} of {len(command_ids)} answers did not come within {timeout:g} s. A command"
            " handled before isn't answered again; one that can't be read is a dead letter"
        )
    if any(answer["type"] == "command.rejected" for answer in answers.values()):
        raise typer.Exit(1)


def _fields(task: str, pairs: list[str]) -> dict[str, Any]:
    if task not in COMMANDS and task != APPLY:
        raise refuse(
            f"there is no command {task}; there are {', '.join([*COMMANDS, APPLY])}", code=2
        )
    asked: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise refuse(f"{pair} is not KEY=VALUE", code=2)
        asked[name] = value_of(task, name, value)
    if task != APPLY:
        if "account_id" not in asked:
            raise refuse("account_id is missing: nobody could be answered", code=2)
        asked.setdefault("command_id", str(uuid4()))
    return asked


def value_of(task: str, name: str, text: str) -> Any:
    """Return `text` if the field takes it as it is, else what it says as JSON, else `text`.

    What a worker wouldn't read as JSON, such as lists in lists in lists, is text here too.
    """
    field = COMMANDS[task].model_fields.get(name) if task in COMMANDS else None
    if field is not None:
        try:
            TypeAdapter(field.rebuild_annotation()).validate_python(text)
        except ValidationError:
            pass
        else:
            return text
    raw = text.encode("utf-8", "surrogatepass")
    try:
        return read_json(raw, bytes_max=MESSAGE_BYTES_MAX, levels_max=LEVELS_MAX)
    except NotJson:
        return text


def _command_ids(task: str, asked: dict[str, Any]) -> list[str]:
    if task != APPLY:
        return [str(asked["command_id"])]
    parts = asked.get("commands")
    if not isinstance(parts, list):
        raise refuse("commands is missing, or not a JSON list", code=2)
    return [
        str(part["command_id"]) for part in parts if isinstance(part, dict) and "command_id" in part
    ]


def _say_sent(task: str, command_ids: list[str], *, as_json: bool) -> None:
    if as_json:
        print_json({"task": task, "command_ids": command_ids})
    else:
        err.print(f"sent {task}, command_id {', '.join(command_ids)}")


def _row(answer: dict[str, Any]) -> tuple[object, ...]:
    data = answer["data"]
    if answer["type"] != "command.rejected":
        card = data.get("card")
        said = (
            f"version {data['version']}, {card['status']}" if card else f"{data['created']} cards"
        )
        return answer["type"], answer["subject"], said
    problems = "; ".join(f"{one['field']}: {one['message']}" for one in data.get("problems", ()))
    return answer["type"], answer["subject"], f"{data['reason']}: {problems or data['message']}"
