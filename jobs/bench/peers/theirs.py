"""The side of litdata and MDS, run by the Python of their own environment; it imports nothing of ours.

    python theirs.py litdata|mds TARS_FILE FOLDER ITEMS_PER_BATCH

TARS_FILE lists the tars, a path a line. Their items are written once as the peer writes bytes. Then each line
on stdin has all of them read, in order, through its data set of local files into memory that is there
already, a batch after the other from its start, and answered with `{"cpu_s": ..., "num_bytes": ...}`; the
line `digest` is answered with the sha256 of all items.
"""

import hashlib
import importlib
import json
import sys
import tarfile
import time
import types
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

CHUNK_BYTES = 1 << 28
ALIGNMENT = 64


def read_tars(tars: Sequence[str]) -> Iterator[bytes]:
    """The items, as they stand in the tars."""
    for path in tars:
        with tarfile.open(path) as tar:
            for member in tar:
                file = tar.extractfile(member) if member.name.endswith(".feat.bin") else None
                if file is not None:
                    yield file.read()


def open_litdata(folder: str, items: Iterable[bytes]) -> Iterable[bytes]:
    """Write and open as litdata does."""
    litdata: Any = importlib.import_module("litdata")
    caches: Any = importlib.import_module("litdata.streaming.cache")
    cache = caches.Cache(input_dir=folder, chunk_bytes=CHUNK_BYTES)
    for number, item in enumerate(items):
        cache[number] = item
    cache.done()
    cache.merge()
    return litdata.StreamingDataset(folder, shuffle=False)


def open_mds(folder: str, items: Iterable[bytes]) -> Iterable[bytes]:
    """Write and open as mosaicml-streaming does."""
    stand_in_for_torchvision()
    streaming: Any = importlib.import_module("streaming")
    with streaming.MDSWriter(out=folder, columns={"item": "bytes"}, size_limit=CHUNK_BYTES) as writer:
        for item in items:
            writer.write({"item": item})
    return _Column(streaming.LocalDataset(folder))


def stand_in_for_torchvision() -> None:
    """MDS imports it for data sets of pictures, and it has no build for this torch without CUDA.

    transformers looks for it, too, and first.
    """
    importlib.import_module("transformers")
    parts = {
        "torchvision": {},
        "torchvision.datasets": {"VisionDataset": object, "CIFAR10": object},
        "torchvision.transforms": {},
        "torchvision.transforms.functional": {"to_tensor": None},
    }
    for name, values in parts.items():
        module = types.ModuleType(name)
        vars(module).update(values)
        sys.modules[name] = module


class _Column:
    def __init__(self, dataset: Any) -> None:  # noqa: ANN401 - theirs
        self._dataset = dataset

    def __iter__(self) -> Iterator[bytes]:
        for number in range(len(self._dataset)):
            yield self._dataset[number]["item"]


def read_all(items: Iterable[bytes], room: memoryview, items_per_batch: int) -> int:
    """Every item into the room; how many bytes there were."""
    start = num_bytes = 0
    for number, item in enumerate(items):
        start = 0 if number % items_per_batch == 0 else start
        room[start : start + len(item)] = item
        start += len(item) + -len(item) % ALIGNMENT
        num_bytes += len(item)
    return num_bytes


def answer(items: Iterable[bytes], command: str, room: memoryview, items_per_batch: int) -> dict[str, object]:
    """What one line of stdin asks for."""
    if command == "digest":
        digest = hashlib.sha256()
        for item in items:
            digest.update(item)
        return {"sha256": digest.hexdigest()}
    started_s = time.process_time()
    num_bytes = read_all(items, room, items_per_batch)
    return {"cpu_s": time.process_time() - started_s, "num_bytes": num_bytes}


OPEN = {"litdata": open_litdata, "mds": open_mds}


def main() -> None:
    """Answer until stdin ends."""
    name, tars_file, folder, size = sys.argv[1:]
    tars = Path(tars_file).read_text(encoding="utf-8").split("\n")
    longest = max(map(len, read_tars(tars)))
    room = memoryview(bytearray(int(size) * (longest + ALIGNMENT)))
    items = OPEN[name](folder, read_tars(tars))
    for line in sys.stdin:
        said = json.dumps(answer(items, line.strip(), room, int(size)))
        sys.stdout.write(f"{said}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
