"""A result: ours beside a peer's, their ratio in each round, and whether the target is met."""

import json
import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

OUR_LIBRARIES = ("celery", "kombu", "redis", "sqlalchemy", "psycopg")
PEERS_LOCK = Path(__file__).with_name("requirements.lock")
PEERS = ("dramatiq", "taskiq", "taskiq-redis", "procrastinate")


@dataclass(frozen=True, kw_only=True)
class Result:
    """Ours and a peer's median over the rounds; the ratio is the median of the rounds' ratios."""

    name: str
    ours: float
    peer: float
    unit: str
    ratio: float
    spread: tuple[float, float]
    """The smallest and the largest ratio of a round."""
    target: str | None
    met: bool | None
    """None where there is no target, or where this machine can't tell."""


def compare(
    name: str,
    ours: Sequence[float],
    peer: Sequence[float],
    unit: str,
    *,
    at_least: float | None = None,
    at_most: float | None = None,
    pooled: tuple[float, float] | None = None,
) -> Result:
    """Compare what was measured in the same rounds.

    `pooled` is ours and theirs over all rounds together, where a median would hide what is rare.
    """
    ratios = [one / other for one, other in zip(ours, peer, strict=True)]
    overall = pooled or (statistics.median(ours), statistics.median(peer))
    ratio = overall[0] / overall[1] if pooled else statistics.median(ratios)
    target, met = _judge(ratio, at_least, at_most)
    return Result(
        name=name,
        ours=overall[0],
        peer=overall[1],
        unit=unit,
        ratio=ratio,
        spread=(min(ratios), max(ratios)),
        target=target,
        met=met,
    )


def _judge(
    ratio: float, at_least: float | None, at_most: float | None
) -> tuple[str | None, bool | None]:
    if at_least is not None:
        return f"≥ {at_least:g}", ratio >= at_least
    if at_most is not None:
        return f"≤ {at_most:g}", ratio <= at_most
    return None, None


def table(results: Sequence[Result]) -> str:
    """Return the results as lines for a terminal, ratios first."""
    rows = [("ratio", "spread", "target", "", "ours", "peer", "", "")]
    rows += [
        (
            _short(one.ratio),
            "–".join(map(_short, one.spread)),
            one.target or "",
            {True: "met", False: "MISSED", None: ""}[one.met],
            _short(one.ours),
            _short(one.peer),
            one.unit,
            one.name,
        )
        for one in results
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    numbers = (0, 1, 4, 5)
    lines = [
        "  ".join(
            cell.rjust(width) if place in numbers else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return "\n".join(lines)


def _short(value: float) -> str:
    """Return a number with three digits that count."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def save(path: Path, results: Sequence[Result], servers: dict[str, str]) -> None:
    """Write results with what they were measured on."""
    document = {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {
            "cores": os.cpu_count(),
            "system": f"{platform.system()} {platform.machine()}",
            "Python": platform.python_version(),
            **servers,
            **{name: version(name) for name in OUR_LIBRARIES},
            **_peers_versions(),
        },
        "results": [asdict(one) for one in results],
    }
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n")


def _peers_versions() -> dict[str, str]:
    lines = PEERS_LOCK.read_text().splitlines()
    pinned = dict(line.split()[0].split("==") for line in lines if "==" in line.split("#")[0])
    return {name: pinned[name] for name in PEERS}
