"""Reading single values out of an annotation row, with a reject code for each way to be wrong."""

from typing import cast

from schemas.errors import RejectCode, SampleError


def read_object(row: object, what: str = "the row") -> dict[str, object]:
    """The row as an object.

    Raises:
        SampleError: NOT_AN_OBJECT.
    """
    if not isinstance(row, dict):
        raise SampleError(RejectCode.NOT_AN_OBJECT, f"{what} is {describe(row)}, not an object")
    return cast("dict[str, object]", row)


def read_field(fields: dict[str, object], name: str, where: str = "") -> object:
    """A value that has to be there.

    Raises:
        SampleError: MISSING_FIELD.
    """
    if name not in fields:
        raise SampleError(RejectCode.MISSING_FIELD, f"{where}{name!r} is missing")
    return fields[name]


def check_text(value: object, what: str) -> str:
    """A value as text.

    Raises:
        SampleError: BAD_TYPE.
    """
    if not isinstance(value, str):
        raise SampleError(RejectCode.BAD_TYPE, f"{what} is {describe(value)}, not text")
    return value


def check_name(value: object, what: str) -> str:
    """A value as text that can be written as UTF-8.

    Raises:
        SampleError: BAD_TYPE.
    """
    text = check_text(value, what)
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise SampleError(RejectCode.BAD_TYPE, f"{what} holds half a surrogate pair") from error
    return text


def check_list(value: object, what: str) -> list[object]:
    """A value as a list.

    Raises:
        SampleError: BAD_TYPE.
    """
    if not isinstance(value, list):
        raise SampleError(RejectCode.BAD_TYPE, f"{what} is {describe(value)}, not a list")
    return cast("list[object]", value)


def read_record_id(fields: dict[str, object]) -> str:
    """The published id as text, `""` where there is none. It repeats and mixes types: never use it as a key.

    Raises:
        SampleError: BAD_TYPE for anything but text and whole numbers.
    """
    value = fields.get("id")
    if type(value) is str and value.isascii():
        return value
    if value is None:
        return ""
    if type(value) is int:
        try:
            return str(value)
        except ValueError as error:
            raise SampleError(RejectCode.BAD_TYPE, "'id' is a number of thousands of digits") from error
    return check_name(value, "'id'")


def describe(value: object) -> str:
    """What a value is, for messages."""
    return "null" if value is None else f"of type {type(value).__name__}"
