"""The Dockerfile and what it is given."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
COPIED = [
    source
    for line in re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE, re.MULTILINE)
    for source in line.split()[:-1]
]


def test_every_file_that_is_copied_exists() -> None:
    assert COPIED
    assert [source for source in COPIED if not (ROOT / source).exists()] == []


def test_only_what_is_copied_reaches_the_builder() -> None:
    first, *others = [
        line
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    assert first == "*"
    assert {line[1:] for line in others if line.startswith("!")} == set(COPIED)


def test_the_image_does_not_run_as_root() -> None:
    last_stage = DOCKERFILE.rpartition("\nFROM ")[2]
    users = re.findall(r"^USER (\S+)$", last_stage, re.MULTILINE)
    assert users
    assert users[-1].isdecimal()
    assert int(users[-1]) > 0


def test_everything_from_outside_is_installed_by_hash() -> None:
    installs = re.findall(r"pip install (.*?)(?: \\)?$", DOCKERFILE, re.MULTILINE)
    assert installs
    assert all("--require-hashes" in line or line == "--no-deps /dist/*.whl" for line in installs)


def test_no_secret_is_baked_in() -> None:
    assert not re.search(r"(?i)password|secret|_url\b", DOCKERFILE)
