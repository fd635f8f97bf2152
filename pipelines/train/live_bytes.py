"""Bytes of tensors that are alive, and the most there ever were, counted operation by operation.

Every storage that an operation hands out is counted when it appears and discounted when it is freed, fake
ones too: so the peak of a step is known without memory or device. Not counted: what a kernel takes for itself
and gives back before it returns, and the allocator's rounding and gaps.

Storages that are resized in place are followed, too: that is how gathered weights come and go (FSDP2).
"""

import weakref
from collections.abc import Callable, Iterable
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Counts storages for as long as the block runs, and those given by `count` before."""

    def __init__(self) -> None:
        super().__init__()  # pyright: ignore[reportUnknownMemberType]
        self.now = 0
        self.peak = 0
        self._sizes: dict[int, int] = {}
        self._resize: Any = None

    def count(self, tensors: Iterable[Tensor]) -> int:
        """Count tensors that were there before; returns their bytes."""
        before = self.now
        for tensor in tensors:
            self._see(tensor)
        return self.now - before

    def __enter__(self) -> "LiveBytes":
        """Count, and follow storages that are resized: no operation tells of that."""
        resize = self._resize = cast(Any, torch.UntypedStorage).resize_

        def resize_and_tell(storage: torch.UntypedStorage, size: int) -> torch.UntypedStorage:
            resized: torch.UntypedStorage = resize(storage, size)
            self._resized(storage)
            return resized

        cast(Any, torch.UntypedStorage).resize_ = resize_and_tell
        super().__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        cast(Any, torch.UntypedStorage).resize_ = self._resize
        cast(Any, super()).__exit__(*error)

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: tuple[type, ...],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - torch's own signature
        result = func(*args, **(kwargs or {}))
        for leaf in cast(list[object], tree_leaves(result)):
            if isinstance(leaf, Tensor):
                self._see(leaf)
        return result

    def _see(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = cast(Any, storage)._cdata
        if key in self._sizes:
            return
        self._sizes[key] = 0
        self._set(key, storage.nbytes())
        weakref.finalize(storage, self._forget, key).atexit = False

    def _resized(self, storage: torch.UntypedStorage) -> None:
        key = cast(Any, storage)._cdata
        if key in self._sizes:
            self._set(key, storage.nbytes())

    def _set(self, key: int, size: int) -> None:
        self.now += size - self._sizes[key]
        self._sizes[key] = size
        self.peak = max(self.peak, self.now)

    def _forget(self, key: int) -> None:
        self.now -= self._sizes.pop(key)


def bytes_of(tensors: Iterable[Tensor]) -> int:
    """Bytes of the storages of tensors, shared ones once."""
    storages: dict[int, torch.UntypedStorage] = {}
    for tensor in tensors:
        storage = tensor.untyped_storage()
        storages[cast(Any, storage)._cdata] = storage
    return sum(storage.nbytes() for storage in storages.values())
