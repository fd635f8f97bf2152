"""A member of an archive of media: where its bytes stand, or why they are not read."""

from typing import Final, NamedTuple

STORED: Final = 0
DEFLATED: Final = 8
"""The numbers of zip; tar stores."""


class ArchiveMember(NamedTuple):
    """A member under a name that is a path below the archive."""

    name: str
    offset: int
    """Of the bytes in a tar, of the local header in a zip."""
    stored_bytes: int
    num_bytes: int
    """As the archive declares it."""
    method: int = STORED
    crc: int = 0
    """Of the bytes, where `has_crc`."""
    problem: str = ""
    """Why it is not read: encrypted, a link, ..."""
