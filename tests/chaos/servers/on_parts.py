"""Faults of workers, relays and beats: killed, stopped, ended, with a wrong clock."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

from tests.chaos.servers.kinds import Counts, Kind
from tests.chaos.servers.world import AT_WORK_S, World
from tests.flow.processes import Part

OFF_S = 600


@contextmanager
def worker_killed(world: World) -> Iterator[None]:
    """SIGKILL of a worker in the middle of a commit."""
    with world.at_work():
        world.crew.kill(world.worker())
    world.crew.start_all()
    yield


@contextmanager
def workers_killed(world: World) -> Iterator[None]:
    """SIGKILL of all workers at once in the middle of their commits."""
    with world.at_work():
        world.crew.kill(*world.crew.workers)
    world.crew.start_all()
    yield


@contextmanager
def relay_killed(world: World) -> Iterator[None]:
    """SIGKILL of the relay that publishes."""
    world.crew.kill(_active_relay(world))
    world.crew.start_all()
    yield


@contextmanager
def beat_killed(world: World) -> Iterator[None]:
    """SIGKILL of both beats."""
    world.crew.kill(*world.crew.running["beat"])
    world.rest(world.seconds(1, 10))
    world.crew.start_all()
    yield


@contextmanager
def worker_stopped(world: World) -> Iterator[None]:
    """SIGSTOP of a worker in the middle of a commit, longer than it takes to be found dead."""
    with world.at_work():
        worker = world.worker()
        worker.pause()
    try:
        yield
    finally:
        worker.resume()


@contextmanager
def relay_stopped(world: World) -> Iterator[None]:
    """SIGSTOP of the relay that publishes."""
    relay = _active_relay(world)
    relay.pause()
    try:
        yield
    finally:
        relay.resume()


@contextmanager
def worker_terminated(world: World) -> Iterator[None]:
    """SIGTERM of a worker in the middle of a commit."""
    with world.at_work():
        worker = world.worker()
        world.crew.tell(signal.SIGTERM, worker)
    world.crew.await_end(signal.SIGTERM, worker)
    world.crew.start_all()
    yield


@contextmanager
def worker_quit(world: World) -> Iterator[None]:
    """SIGQUIT (cold stop) of a worker in the middle of a commit."""
    with world.at_work():
        worker = world.worker()
        world.crew.tell(signal.SIGQUIT, worker)
    world.crew.await_end(signal.SIGQUIT, worker, must_be_0=False)
    world.crew.start_all()
    yield


@contextmanager
def relay_terminated(world: World) -> Iterator[None]:
    """SIGTERM of the relay that publishes."""
    world.crew.end(signal.SIGTERM, _active_relay(world))
    world.crew.start_all()
    yield


@contextmanager
def clocks_off(world: World) -> Iterator[None]:
    """The only workers are two whose clocks are 10 min ahead and 10 min behind."""
    before = list(world.crew.workers)
    off = [world.crew.start("worker", clock_off_s=seconds) for seconds in (OFF_S, -OFF_S)]
    world.crew.wait(lambda: all(map(world.crew.is_ready, off)), max_s=30)
    world.crew.end(signal.SIGTERM, *before)
    yield
    living = [worker for worker in off if worker in world.crew.workers]
    world.crew.end(signal.SIGTERM, *living)
    world.crew.start_all()


def _active_relay(world: World) -> Part:
    """Return the relay that holds the lease, else any."""
    relays = world.crew.running["relay"]
    world.crew.wait(lambda: relays, max_s=AT_WORK_S)
    held = world.database.run("SELECT holder FROM leases WHERE name = 'relay'")
    by_pid = {str(relay.pid): relay for relay in relays}
    named = [
        by_pid[part] for (holder,) in held for part in str(holder).split("/") if part in by_pid
    ]
    return (named or relays)[0]


FULL = Counts.IN_FULL
KINDS = (
    Kind("worker-killed", worker_killed, 1, 2, FULL),
    Kind("workers-killed", workers_killed, 1, 2, FULL),
    Kind("worker-stopped", worker_stopped, 20, 25, FULL),
    Kind("worker-terminated", worker_terminated, 1, 2, FULL),
    Kind("worker-quit", worker_quit, 1, 2, FULL),
    Kind("worker-clocks-off", clocks_off, 4, 20, FULL),
    Kind("relay-killed", relay_killed, 1, 2, FULL),
    Kind("relay-stopped", relay_stopped, 15, 60, FULL),
    Kind("relay-terminated", relay_terminated, 1, 2, FULL),
    Kind("beats-killed", beat_killed, 1, 2, FULL),
)
