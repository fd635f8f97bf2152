"""Media and items: what is stored, decoded and encoded once.

A medium is named by the sha256 of its encoded bytes, so a picture that a thousand records share, under any
number of paths, is one medium. An item is one medium, or the tuple of media of a multi-image record, with all
conversations about it; its key is a hash, so keys are evenly spread and hold no dot (WebDataset cuts member
names at the first one).
"""

from typing import Final, NamedTuple

from schemas.digest import digest_of
from schemas.record import MediumKind, Modality

KEY_DIGITS: Final = 32
KEY_BITS: Final = 4 * KEY_DIGITS


class MediumFacts(NamedTuple):
    """What a header tells of a medium, without decoding it. A named tuple: one is made for every file.

    Width and height are those on display (orientation applied), in pixels; duration is 0 for images.
    """

    sha256: str
    kind: MediumKind
    extension: str
    num_bytes: int
    width_px: int
    height_px: int
    duration_s: float = 0.0


def item_key_of_media(sha256s: tuple[str, ...]) -> str:
    """The key of the item over these media, in this order: 32 hex digits."""
    if len(sha256s) == 1:
        return sha256s[0][:KEY_DIGITS]
    return digest_of(["item/1", list(sha256s)])[:KEY_DIGITS]


def item_key_of_text(conversation_sha256: str) -> str:
    """The key of the item of a text-only conversation: 32 hex digits."""
    return digest_of(["text/1", conversation_sha256])[:KEY_DIGITS]


def modality_of(kinds: tuple[MediumKind, ...]) -> Modality:
    """The modality of an item with these media."""
    match kinds:
        case ():
            return Modality.TEXT
        case (MediumKind.IMAGE,):
            return Modality.IMAGE
        case (MediumKind.VIDEO,):
            return Modality.VIDEO
        case _:
            return Modality.MULTI
