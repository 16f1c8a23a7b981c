"""Why a message is kept as a dead letter: a closed set of reasons with a sentence each."""

from card_worker.contracts.enums import TextEnum


class DeadLetterReason(TextEnum):
    """Why a message, or an item of a list of commands, is kept as a dead letter."""

    ENTRY_MALFORMED = "entry_malformed", "The entry of the Redis list is not a message."
    ENTRY_TOO_LARGE = "entry_too_large", "The entry of the Redis list is too large to be read."
    DECODING_FAILED = "decoding_failed", "Kombu could not decode the message."
    NOT_A_TASK = "not_a_task", "The message is not a task message of Celery's protocol 2."
    HEADERS_NOT_JSON = "headers_not_json", "The headers are not JSON."
    HEADERS_TOO_LARGE = "headers_too_large", "The headers are too large."
    CONTENT_TYPE_UNSUPPORTED = (
        "content_type_unsupported",
        "The content type must be application/json.",
    )
    CONTENT_ENCODING_UNSUPPORTED = (
        "content_encoding_unsupported",
        "The content encoding must be utf-8.",
    )
    COMPRESSION_UNSUPPORTED = (
        "compression_unsupported",
        "The body is compressed, but not with zlib, gzip, bzip2 or lzma.",
    )
    TASK_UNKNOWN = "task_unknown", "There is no task with this name."
    MESSAGE_ID_INVALID = "message_id_invalid", "The header id must be an id of 1 to 64 characters."
    HEADER_NOT_ALLOWED = (
        "header_not_allowed",
        "A message of the workers' own has a header or argument that is not allowed.",
    )
    BODY_INVALID = "body_invalid", "The body is not JSON, is too large or is nested too deep."
    BODY_NOT_A_CALL = "body_not_a_call", "The body is not [args, kwargs, embed]."
    COMMAND_LIST_INVALID = (
        "command_list_invalid",
        "The one field of commands.apply, commands, must be a list of 1 to 1,000 objects.",
    )
    ITEMS_UNREADABLE = (
        "items_unreadable",
        "Items of the list are not readable as commands; the others were handled.",
    )
    ITEM_NOT_AN_OBJECT = "item_not_an_object", "The item of the list is not an object."
    COMMAND_UNKNOWN = "command_unknown", "There is no command with this name."
    ACCOUNT_ID_INVALID = (
        "account_id_invalid",
        "The command is wrong, and has no valid account_id to which a refusal could be published.",
    )
    UNSIGNED = "unsigned", "The command is not signed, and its account requires signatures."
    SIGNATURE_MALFORMED = "signature_malformed", "The message is signed, but not in a valid form."
    KEY_UNKNOWN = "key_unknown", "The signature's key is not registered, or not valid now."
    SIGNATURE_WRONG = "signature_wrong", "The signature does not match the message and its key."
    CHUNK_INVALID = "chunk_invalid", "The fields do not name a chunk of a job."
    SWEEP_INVALID = "sweep_invalid", "The fields do not name a slice of a sweep."
    DEFECT = "defect", "Handling the message failed because of a defect."
    STARTS_EXHAUSTED = (
        "starts_exhausted",
        "The message was started 5 times and never finished; it may have killed its workers.",
    )
    STORED_IN_PART = (
        "stored_in_part",
        "The database did not accept the dead letter as a whole; only the body was stored.",
    )
    UNKNOWN = "unknown", "The reason is not known to this version of card_worker."

    @classmethod
    def _missing_(cls, value: object) -> "DeadLetterReason":
        """Read a code that another version of card_worker has stored."""
        return cls.UNKNOWN


UNAUTHENTICATED = frozenset(
    [
        DeadLetterReason.UNSIGNED,
        DeadLetterReason.SIGNATURE_MALFORMED,
        DeadLetterReason.KEY_UNKNOWN,
        DeadLetterReason.SIGNATURE_WRONG,
    ]
)
"""The sender is not known: nothing is answered, and no result is stored."""


def explain(reason: DeadLetterReason, detail: str | None) -> str:
    """Return one line: the reason, its sentence, and the first line of `detail`."""
    first_line = (detail or "").partition("\n")[0]
    text = f"{reason.text[:-1]} ({first_line})." if first_line else reason.text
    return f"{reason}: {text}"


class Unreadable(Exception):
    """A message, or an item of a list, whose sender cannot be answered.

    The first line of `detail`, if any, is short and has no secret; more lines may follow.
    """

    def __init__(self, reason: DeadLetterReason, detail: str | None = None) -> None:
        super().__init__(explain(reason, detail))
        self.reason, self.detail = reason, detail
