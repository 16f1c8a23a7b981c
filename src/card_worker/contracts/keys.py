"""Keys: what a command is known by within its account. The id of its answer derives from it.

A key begins with the name of its space, and each function here has a space of its own. What a
sender chooses stands behind that name, so no command can have a key of another space.
"""

from hashlib import sha256
from uuid import UUID


def by_id(command_id: str) -> str:
    """Return the key of a command that has no reference."""
    return f"id/{command_id}"


def on_card(card_id: str, ref_id: str) -> str:
    """Return the key of a movement of money on a card that is named."""
    # With its length, so that no two cards and references spell the same key.
    return f"ref/{len(card_id)}/{card_id}/{ref_id}"


def by_transaction(transaction_id: UUID, ref_id: str) -> str:
    """Return the key of what is done to a transaction."""
    return f"ref/{transaction_id}/{ref_id}"


def by_token(fingerprint: str, ref_id: str) -> str:
    """Return the key of a movement of money on the card of a token."""
    return f"ref/token/{fingerprint}/{ref_id}"


def new_token(card_id: str, ref_id: str) -> str:
    """Return the key of a token that is made for a card."""
    return f"token/{len(card_id)}/{card_id}/{ref_id}"


def dry(key: str) -> str:
    """Return the key of a dry run of the command that has this one."""
    return f"dry/{key}"


def query(task: str, command_id: str) -> str:
    """Return the key of a query."""
    return f"query/{task}/{command_id}"


def internal(command_id: str) -> str:
    """Return the key of a command that a worker makes itself. No message leads to one."""
    return f"own/{command_id}"


def conflict(taken: str, digest: str) -> str:
    """Return the key of a refusal: `taken` belongs to a command with another digest."""
    return f"conflict/{sha256(f'{taken} {digest}'.encode()).hexdigest()}"


def refused(signature: str, key: str) -> str:
    """Return the key of the refusal of a command by the rules for its sender.

    `signature` is the digest of what is signed: signed anew, the command is judged anew. The key of
    the command itself stays free for those who may use it.
    """
    return f"signature/{sha256(f'{signature} {key}'.encode()).hexdigest()}"


# The keys of events that aren't the answer to a command. No row of `keys` has one; which event has
# led to them, `reconcile` looks up.


def guard(attempt: UUID) -> str:
    """Return the key of the event by which a wrong PIN locks the PIN of its card."""
    return f"guard/{attempt}"


def arrival(departure: UUID) -> str:
    """Return the key of what comes to a card because of the event by which it left another."""
    return f"in/{departure}"


def release(hold: UUID) -> str:
    """Return the key of the release of an expired hold that a command on its card has met."""
    return f"hold/{hold}"


def rest(capture: UUID) -> str:
    """Return the key of the release of what a final capture has left of its hold."""
    return f"rest/{capture}"


def breakage(answer: UUID) -> str:
    """Return the key of the breakage that an answer leads to."""
    return f"breakage/{answer}"


def repeat(event: UUID, command_id: str) -> str:
    """Return the key of the repetition of an answer for another command_id."""
    return f"repeat/{event}/{command_id}"


def pruned(event: UUID, command_id: str) -> str:
    """Return the key of the repetition of an answer whose content is no longer stored."""
    return f"pruned/{event}/{command_id}"


def of_job(job: UUID, what: str) -> str:
    """Return the key of an event about a job."""
    return f"job/{job}/{what}"


def confirmation(batch_id: str) -> str:
    """Return the key of the confirmation of a batch's files."""
    return f"confirmed/{batch_id}"
