"""A token or a PIN in plain text, in an object that never shows it by accident."""

from typing import Any, NoReturn

from pydantic import (
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    SerializationInfo,
    ValidatorFunctionWrapHandler,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

HIDDEN = "***"
REVEAL: dict[str, bool] = {"reveal": True}
"""The pydantic context for serialising a model with its secrets, to send it to the worker."""

ARMOR = "-----BEGIN AGE ENCRYPTED FILE-----"
"""The beginning of sealed text."""
CHARS_MAX, SEALED_CHARS_MAX = 255, 4_096


def is_sealed(text: str) -> bool:
    """Return whether `text` is sealed with age."""
    return text.startswith(ARMOR)


class Secret:
    """Text that only `reveal` returns. Usable as the type of a field of a pydantic model."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """Return the text. Only for hashing and sealing it."""
        return self._value

    def __repr__(self) -> str:
        return f"Secret({HIDDEN})"

    def __str__(self) -> str:
        return HIDDEN

    def __format__(self, _spec: str) -> str:
        return HIDDEN

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret cannot be pickled")

    @classmethod
    def __get_pydantic_core_schema__(cls, _: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_wrap_validator_function(
            _validate,
            core_schema.str_schema(strict=True, min_length=1, max_length=SEALED_CHARS_MAX),
            serialization=core_schema.plain_serializer_function_ser_schema(
                _serialise, info_arg=True, return_schema=core_schema.str_schema()
            ),
        )

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return {
            "type": "string",
            "minLength": 1,
            "maxLength": SEALED_CHARS_MAX,
            "allOf": [{"anyOf": [{"maxLength": CHARS_MAX}, {"pattern": f"^{ARMOR}"}]}],
            "writeOnly": True,
        }


def _validate(value: object, as_text: ValidatorFunctionWrapHandler) -> Secret:
    secret = value if isinstance(value, Secret) else Secret(as_text(value))
    if len(secret.reveal()) > CHARS_MAX and not is_sealed(secret.reveal()):
        raise PydanticCustomError(
            "secret_too_long", "must have at most {max} characters", {"max": CHARS_MAX}
        )
    return secret


def _serialise(secret: Secret, info: SerializationInfo) -> str:
    return secret.reveal() if info.context == REVEAL else HIDDEN
