"""Canonical JSON and sha256: how everything that is named by its content gets its name.

Canonical means: keys sorted, no spaces, UTF-8, no NaN. Two values with the same canonical JSON are the same
value; a digest is the lowercase hex sha256 of it. Short names use the first 16 hex digits.
"""

import hashlib
import json
from typing import Final

SHORT: Final = 16


def canonical_json(value: object) -> bytes:
    """The one spelling of a JSON value.

    Raises:
        ValueError: for NaN, infinities and values that JSON does not know.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8", errors="strict")


def sha256_hex(data: bytes | bytearray | memoryview) -> str:
    """Lowercase hex sha256."""
    return hashlib.sha256(data).hexdigest()


def digest_of(value: object) -> str:
    """The digest of a JSON value."""
    return sha256_hex(canonical_json(value))
