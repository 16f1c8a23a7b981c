"""What documents name is there: other pages, commands with their options, targets, settings."""

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from card_worker.settings import Settings
from tests.cli.commands import all_commands
from tests.documents.reading import DOCUMENTS, ROOT, blocks, commands, without_blocks

PAGES = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
LINE_MAX = 120
README_LINES_MAX = 160
RESULTS = ROOT / "benchmarks" / "results" / "latest.json"
LINK = re.compile(r"\[(?:[^\]]*)\]\(([^)\s]+)\)")
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
OF_CELERY = {"worker", "beat"}
"""Our commands that pass options on to Celery."""
OTHER_VARIABLES = {"CARD_WORKER_TEST_DATABASE_URL", "CARD_WORKER_TEST_BROKER_URL"}


@PAGES
def test_every_link_leads_somewhere(document: Path) -> None:
    dead = [link for link in LINK.findall(without_blocks(document)) if not _leads(document, link)]
    assert dead == []


def _leads(document: Path, link: str) -> bool:
    if re.match(r"https?:", link):
        return True
    name, _, anchor = link.partition("#")
    target = (document.parent / name).resolve() if name else document
    if not target.exists():
        return False
    return not anchor or anchor in _anchors(target)


def _anchors(document: Path) -> set[str]:
    """Return what links to the headings of a document end with."""
    headings = re.findall(r"^#+ (.+)$", without_blocks(document), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}


@PAGES
def test_every_command_is_one_that_there_is(document: Path) -> None:
    wrong = [said for said in _said(document) if not _exists(said)]
    assert wrong == []


def _said(document: Path) -> Iterator[str]:
    """Yield the commands that a document tells of: in blocks, and in lines of text."""
    for block in blocks(document):
        if block.language == "sh":
            yield from commands(block)
    for said in re.findall(r"`((?:card-worker|make) [^`]+)`", without_blocks(document)):
        yield " ".join(said.split())


def _exists(said: str) -> bool:
    words = shlex.split(said.replace("$(", " ").replace(")", " "))
    names = [word for word in words if "=" not in word]
    if names[:1] == ["make"]:
        return {word for word in names[1:] if not word.startswith("-")} <= TARGETS
    if "card-worker" in words:
        return _is_ours(words[words.index("card-worker") + 1 :])
    return True


def _is_ours(words: list[str]) -> bool:
    command, passes_on = all_commands(), False
    while words and hasattr(command, "commands") and not words[0].startswith("-"):
        passes_on = words[0] in OF_CELERY
        if words[0] not in command.commands:
            return False
        command = command.commands[words.pop(0)]
    known = {name for option in command.params for name in option.opts} | {"--help", "-h"}
    options = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)}
    return passes_on or options <= known


@PAGES
def test_every_variable_is_a_setting(document: Path) -> None:
    named = set(re.findall(r"\bCARD_WORKER_[A-Z_]+[A-Z]\b", document.read_text()))
    fields = {f"CARD_WORKER_{name.upper()}" for name in Settings.model_fields}
    assert named <= fields | {f"{name}_FILE" for name in fields} | OTHER_VARIABLES


@PAGES
def test_every_module_is_where_it_is_said_to_be(document: Path) -> None:
    named = set(re.findall(r"\b[a-z_]+/[a-z_/]+\.py\b", document.read_text()))
    assert [name for name in sorted(named) if not _is_a_module(name)] == []


def _is_a_module(name: str) -> bool:
    return any((ROOT / folder / name).exists() for folder in ("src/card_worker", ".", "tests"))


def test_log_lines_to_watch_are_written_somewhere() -> None:
    page = without_blocks(ROOT / "docs" / "how-to" / "monitor.md")
    section = page.partition("## Log lines")[2].partition("\n## ")[0]
    events = re.findall(r"`([a-z]+(?:,? [a-z]+){2,})`", section)
    source = "".join(path.read_text() for path in (ROOT / "src").rglob("*.py"))
    assert len(events) >= 6
    assert [event for event in events if event not in source] == []


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "docs/tutorial.md"])
def test_lines_fit_on_a_screen(name: str) -> None:
    lines = (ROOT / name).read_text().splitlines()
    assert [line for line in lines if len(line) > LINE_MAX] == []


def test_the_figures_are_those_of_the_latest_run() -> None:
    results = json.loads(RESULTS.read_text())["results"]
    measured = {number for result in results for number in _shown(result)}
    page = (ROOT / "docs" / "performance.md").read_text().partition("## Reconcile")[0]
    rows = [line.split("|")[2:5] for line in page.splitlines() if re.search(r"\d \|", line)]
    figures = {cell.strip() for row in rows for cell in row if cell.strip()}
    assert len(rows) > 15
    assert figures - measured == set()


def _shown(result: dict[str, Any]) -> Iterator[str]:
    """Yield the figures of a result as a document may show them: in full or rounded."""
    for name in ("ours", "peer", "ratio"):
        for digits in range(4):
            yield f"{result[name]:,.{digits}f}"


def test_the_readme_has_figures_of_the_page_about_them() -> None:
    pages = "".join(
        (ROOT / "docs" / f"{name}.md").read_text() for name in ("performance", "reliability")
    )
    section = (ROOT / "README.md").read_text().partition("## Figures")[2].partition("## ")[0]
    figures = re.findall(r"\d[\d,]*\d", section)
    assert figures
    assert [figure for figure in figures if figure not in pages] == []


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= README_LINES_MAX
