"""The garbage collector, kept from walking through rows that nobody can leak.

Rows hold no cycles: counting references frees them. The collector cannot know that, and walks through every
list and object that a parser makes, again and again: more than parsing itself costs.
"""

import contextlib
import gc
from collections.abc import Generator


@contextlib.contextmanager
def no_collection() -> Generator[None]:
    """No garbage collection for as long as the block runs."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
