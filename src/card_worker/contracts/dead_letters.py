"""Why a message is kept as a dead letter: a closed set of reasons with a sentence each."""

from enum import StrEnum


class DeadLetterReason(StrEnum):
    """Why a message, or an item of a list of commands, is kept as a dead letter."""

    ENTRY_MALFORMED = "entry_malformed"
    ENTRY_TOO_LARGE = "entry_too_large"
    DECODING_FAILED = "decoding_failed"
    NOT_A_TASK = "not_a_task"
    HEADERS_NOT_JSON = "headers_not_json"
    HEADERS_TOO_LARGE = "headers_too_large"
    CONTENT_TYPE_UNSUPPORTED = "content_type_unsupported"
    CONTENT_ENCODING_UNSUPPORTED = "content_encoding_unsupported"
    TASK_UNKNOWN = "task_unknown"
    MESSAGE_ID_INVALID = "message_id_invalid"
    HEADER_NOT_ALLOWED = "header_not_allowed"
    SIGNATURE_NOT_ALLOWED = "signature_not_allowed"
    BODY_INVALID = "body_invalid"
    BODY_NOT_A_CALL = "body_not_a_call"
    POSITIONAL_ARGUMENTS = "positional_arguments"
    COMMAND_LIST_INVALID = "command_list_invalid"
    ITEMS_UNREADABLE = "items_unreadable"
    ITEM_NOT_AN_OBJECT = "item_not_an_object"
    COMMAND_UNKNOWN = "command_unknown"
    ACCOUNT_ID_INVALID = "account_id_invalid"
    CHUNK_INVALID = "chunk_invalid"
    SWEEP_INVALID = "sweep_invalid"
    DEFECT = "defect"
    STARTS_EXHAUSTED = "starts_exhausted"
    STORED_IN_PART = "stored_in_part"
    UNKNOWN = "unknown"

    @classmethod
    def _missing_(cls, value: object) -> "DeadLetterReason":
        """Read a code that another version of card_worker has stored."""
        return cls.UNKNOWN


DEAD_LETTER_MESSAGES: dict[DeadLetterReason, str] = {
    DeadLetterReason.ENTRY_MALFORMED: "The entry of the Redis list is not a message.",
    DeadLetterReason.ENTRY_TOO_LARGE: "The entry of the Redis list is too large to be read.",
    DeadLetterReason.DECODING_FAILED: "Kombu could not decode the message.",
    DeadLetterReason.NOT_A_TASK: "The message is not a task message of Celery's protocol 2.",
    DeadLetterReason.HEADERS_NOT_JSON: "The headers are not JSON.",
    DeadLetterReason.HEADERS_TOO_LARGE: "The headers are too large.",
    DeadLetterReason.CONTENT_TYPE_UNSUPPORTED: "The content type must be application/json.",
    DeadLetterReason.CONTENT_ENCODING_UNSUPPORTED: "The content encoding must be utf-8.",
    DeadLetterReason.TASK_UNKNOWN: "There is no task with this name.",
    DeadLetterReason.MESSAGE_ID_INVALID: "The header id must be an id of 1 to 64 characters.",
    DeadLetterReason.HEADER_NOT_ALLOWED: "The message has a header that is not allowed.",
    DeadLetterReason.SIGNATURE_NOT_ALLOWED: "The body embeds a signature, which is not allowed.",
    DeadLetterReason.BODY_INVALID: "The body is not JSON, is too large or is nested too deep.",
    DeadLetterReason.BODY_NOT_A_CALL: "The body is not [args, kwargs, embed].",
    DeadLetterReason.POSITIONAL_ARGUMENTS: "Tasks take keyword arguments only.",
    DeadLetterReason.COMMAND_LIST_INVALID: (
        "commands.apply takes one field, commands: a list of 1 to 1,000 objects."
    ),
    DeadLetterReason.ITEMS_UNREADABLE: (
        "Items of the list are not readable as commands; the others were handled."
    ),
    DeadLetterReason.ITEM_NOT_AN_OBJECT: "The item of the list is not an object.",
    DeadLetterReason.COMMAND_UNKNOWN: "There is no command with this name.",
    DeadLetterReason.ACCOUNT_ID_INVALID: (
        "The command is wrong, and has no valid account_id to which a refusal could be published."
    ),
    DeadLetterReason.CHUNK_INVALID: "The fields do not name a chunk of a job.",
    DeadLetterReason.SWEEP_INVALID: "The fields do not name a slice of a sweep.",
    DeadLetterReason.DEFECT: "Handling the message failed because of a defect.",
    DeadLetterReason.STARTS_EXHAUSTED: (
        "The message was started 5 times and never finished; it may have killed its workers."
    ),
    DeadLetterReason.STORED_IN_PART: (
        "The database did not accept the dead letter as a whole; only the body was stored."
    ),
    DeadLetterReason.UNKNOWN: "The reason is not known to this version of card_worker.",
}
"""What each reason means, shown to operators."""


def explain(reason: DeadLetterReason, detail: str | None) -> str:
    """Return one line: the reason, its sentence, and the first line of `detail`."""
    first_line = (detail or "").partition("\n")[0]
    message = DEAD_LETTER_MESSAGES[reason]
    return f"{reason}: " + (f"{message[:-1]} ({first_line})." if first_line else message)
