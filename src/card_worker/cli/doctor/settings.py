"""Checks of the settings, and of the store of files that they name."""

from collections.abc import Iterator
from pathlib import Path

from card_worker.cli.doctor.finding import Finding, Level
from card_worker.file_store import FileStore
from card_worker.settings import Settings, WrongSetting, load_settings, unknown_variables

PART = "settings"


def check_settings() -> tuple[Settings | None, list[Finding]]:
    """Return the settings, or None if they are wrong, and what was found."""
    findings = [
        Finding(Level.WARNING, PART, text, "correct or remove it, unless another program needs it")
        for text in unknown_variables()
    ]
    try:
        settings = load_settings()
        settings.database()
        settings.broker()
    except WrongSetting as error:
        findings.append(Finding(Level.WRONG, PART, str(error), "see docs/reference/contract.md"))
        return None, findings
    return settings, [*findings, Finding(Level.OK, PART, "all values are valid")]


def check_files(settings: Settings) -> Iterator[Finding]:
    """Write a small file to the store and remove it. Creates no folder."""
    part, store = "files", FileStore(settings.files_url)
    try:
        store.check()
    except (ImportError, ValueError) as error:
        text = f"{store}: {type(error).__name__}: a library for it is missing"
        yield Finding(Level.WRONG, part, text, "pip install the library of fsspec for this scheme")
        return
    if "://" not in settings.files_url and not Path(settings.files_url).is_dir():
        text = f"{store} does not exist on this machine"
        remedy = "none is needed if it is the workers' folder: they make it"
        yield Finding(Level.WARNING, part, text, remedy)
        return
    try:
        store.probe()
    except PermissionError:
        text = f"this user may not write to {store}"
        yield Finding(Level.WARNING, part, text, "let the user of the workers write there")
    except Exception as error:  # a library's own errors have no base class
        text = f"{store} can't be written: {type(error).__name__}"
        yield Finding(Level.WRONG, part, text, "repair the store: files of cards wait for it")
    else:
        yield Finding(Level.OK, part, f"{store} can be written")
