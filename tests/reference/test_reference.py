"""The reference is what the models say, today, and says something about everything."""

import json
import resource
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from card_worker.cli import app
from card_worker.contracts.commands import COMMANDS
from card_worker.contracts.queries import QUERIES
from card_worker.reference.examples import examples
from card_worker.reference.schemas import batch_view_schema, command_schema
from card_worker.settings import Settings
from tests.contracts.test_events import TOLD

DOCS = Path(__file__).parents[2] / "docs" / "reference"
SCHEMAS = sorted(str(path.relative_to(DOCS)) for path in DOCS.glob("schemas/**/*.json"))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the command writes, which takes it seconds, by file name."""
    folder = tmp_path_factory.mktemp("reference") / "new" / "folder"
    done = CliRunner().invoke(app, ["contract", str(folder)])
    assert done.exit_code == 0, done.output
    written = folder.rglob("*.*")
    return {str(path.relative_to(folder)): path.read_text(encoding="utf-8") for path in written}


def test_what_is_written_is_what_the_models_say(files: dict[str, str]) -> None:
    stale = [
        name
        for name, text in files.items()
        if not (DOCS / name).exists() or (DOCS / name).read_text(encoding="utf-8") != text
    ]
    assert stale == [], "run card-worker contract"
    assert set(SCHEMAS) == {name for name in files if name.startswith("schemas/")}


def test_the_command_writes_all_of_it(files: dict[str, str]) -> None:
    pages = {"contract.md", "events.md", "states.md"}
    assert set(files) == {*pages, "asyncapi.json", "signatures.json", *SCHEMAS}


def test_an_interrupted_command_leaves_whole_files(tmp_path: Path) -> None:
    page = tmp_path / "contract.md"
    page.write_text("before")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        done = CliRunner().invoke(app, ["contract", str(tmp_path)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "File too large" in str(done.exception)
    assert page.read_text() == "before"


@pytest.mark.parametrize("task", [*COMMANDS, *QUERIES])
def test_a_command_and_all_its_fields_have_a_text(task: str) -> None:
    schema = command_schema(task)
    assert schema["description"].endswith(".")
    offered = {
        name: field
        for name, field in schema["properties"].items()
        if field.get("anyOf") or field.get("type") != "null"
    }
    assert [name for name, field in offered.items() if not field.get("description")] == []


def test_every_setting_has_a_text() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


def _references(part: Any) -> list[str]:
    match part:
        case {"$ref": str(reference)}:
            return [reference]
        case dict():
            return [one for inner in part.values() for one in _references(inner)]
        case list():
            return [one for inner in part for one in _references(inner)]
    return []


@pytest.mark.parametrize("name", ["asyncapi.json", *SCHEMAS])
def test_every_reference_within_a_document_leads_somewhere(name: str) -> None:
    document = json.loads((DOCS / name).read_text(encoding="utf-8"))
    for reference in _references(document):
        found = document
        for step in reference.removeprefix("#/").split("/"):
            found = found[step]
        assert isinstance(found, dict)


def test_what_a_story_tells_is_what_its_schema_names(files: dict[str, str]) -> None:
    for answer in TOLD:
        event = json.loads(answer.event)
        schema = json.loads(files[f"schemas/events/{answer.type}.json"])
        data = schema["$defs"][schema["properties"]["data"]["$ref"].rpartition("/")[2]]
        for said, described in ((event, schema), (event["data"], data)):
            assert set(described["required"]) <= set(said) <= set(described["properties"])
        assert event["type"] == schema["properties"]["type"]["const"]


def _undescribed(name: str, schema: Any) -> list[str]:
    parts = {name: schema, **schema.get("$defs", {})}
    return [
        f"{part}.{field}"
        for part, described in parts.items()
        for field, text in described.get("properties", {}).items()
        if not text.get("description", "").endswith(".")
    ]


@pytest.mark.parametrize("name", SCHEMAS)
def test_no_field_of_any_command_event_or_view_lacks_a_description(name: str) -> None:
    assert _undescribed(name, json.loads((DOCS / name).read_text(encoding="utf-8"))) == []


def test_no_field_of_a_batch_that_a_query_shows_lacks_a_description() -> None:
    assert _undescribed("", batch_view_schema()) == []


def test_every_command_has_an_example_that_was_accepted() -> None:
    assert set(examples()) == set(COMMANDS)
    for task, (fields, answer) in examples().items():
        assert answer["correlationid"] == fields["command_id"]
        assert answer["data"]["command"] == task
        assert answer["type"] != "command.rejected"


def test_the_document_names_a_server_for_each_channel(files: dict[str, str]) -> None:
    document = json.loads(files["asyncapi.json"])
    assert set(document["servers"]) == {"broker", "events"}
    assert all(channel["servers"] for channel in document["channels"].values())
