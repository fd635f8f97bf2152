"""Is this machine fit to build and train: one finding a thing, each with what to do about it.

Every check does the thing itself, small: decodes a picture and a clip, creates an object twice, writes a
file and syncs it. Nothing is left behind. Costs some seconds, most of them imports; speeds are of this
moment, so they are told and only judged where they are hopeless.
"""

import importlib
import io
import os
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any, Final

import numpy as np
from packaging.requirements import Requirement
from PIL import Image

from infra.machine import count_cpus, count_memory_bytes, list_gpus
from infra.storage import open_storage
from operators.preprocess import CLIP_PROCESSOR
from pipelines.decode.isolated import IsolatedDecoder
from pipelines.decode.policy import rendering_of
from schemas.errors import PipelineError
from schemas.recipe import ViewsConfig
from schemas.record import MediumKind

MIN_FREE_BYTES: Final = 10 * 2**30
MIN_MEMORY_BYTES: Final = 4 * 2**30
MIN_WRITE_MIB_S: Final = 20.0
PROBE_BYTES: Final = 32 * 2**20
FRAMES: Final = 8


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check saw; `fix` is empty where all is well."""

    name: str
    seen: str
    fix: str = ""


def examine(corpus: str | None, ray_address: str | None) -> Iterator[Finding]:
    """All findings, as they come.

    Args:
        corpus: where a corpus is or will be: its storage, free space and speed are looked at.
        ray_address: a cluster to join, or None for none.
    """
    yield check_python()
    yield check_packages()
    yield check_torch()
    yield _guard("pictures", check_pictures)
    yield _guard("clips", check_clips)
    yield check_machine()
    is_local = corpus is None or "://" not in corpus
    folder = _nearest_folder(Path(corpus or "."), is_local)
    for place in dict.fromkeys([folder, Path(tempfile.gettempdir())]):
        yield check_space(place)
    yield _guard("disk", lambda: check_disk(folder))
    if corpus is not None:
        yield _guard("storage", lambda: check_storage(corpus))
    yield _guard("ray", lambda: check_ray(ray_address))


def check_python() -> Finding:
    """Versions that are tested."""
    seen = ".".join(str(part) for part in sys.version_info[:3])
    is_tested = (3, 11) <= sys.version_info[:2] <= (3, 12)
    return Finding("python", seen, "" if is_tested else "install Python 3.11 or 3.12")


def check_packages() -> Finding:
    """Every requirement of this release, installed in a version that it supports."""
    needed = [Requirement(line) for line in requires("onetoken") or []]
    needed = [one for one in needed if one.marker is None or one.marker.evaluate({"extra": ""})]
    wrong: list[str] = []
    for one in needed:
        try:
            found = version(one.name)
        except PackageNotFoundError:
            wrong.append(f"{one.name} is missing")
            continue
        if not one.specifier.contains(found, prereleases=True):
            wrong.append(f"{one.name} {found} is not {one.specifier}")
    seen = "; ".join(wrong) or f"{len(needed)} as this release needs them"
    return Finding("packages", seen, "pip install -c requirements.lock onetoken" if wrong else "")


def check_torch() -> Finding:
    """Torch, and whether it sees the GPUs that the system sees."""
    import torch

    if torch.cuda.is_available():
        library: Any = torch.cuda
        cards = [library.get_device_properties(place) for place in range(torch.cuda.device_count())]
        names = ", ".join(f"{card.name} {card.total_memory / 2**30:.0f} GiB" for card in cards)
        return Finding("torch", f"{torch.__version__}, CUDA {torch.version.cuda}: {names}")
    hidden = list_gpus()
    seen = f"{torch.__version__}, no CUDA"
    if hidden:
        fix = "install torch for CUDA, and a driver as new as it needs: pip install --force-reinstall torch"
        return Finding("torch", f"{seen}, though the system has {len(hidden)} GPUs", fix)
    return Finding("torch", f"{seen}, no GPU: encoding real corpora takes one")


def check_pictures() -> Finding:
    """Decode a JPEG as any other, in a process of its own."""
    file = io.BytesIO()
    Image.new("RGB", (64, 48), (200, 40, 40)).save(file, "JPEG")
    rendered = _decoder().render(file.getvalue(), MediumKind.IMAGE)
    return Finding("pictures", f"pillow {version('pillow')}: a JPEG gives {len(rendered.views)} views")


def check_clips() -> Finding:
    """Decode a clip as any other, in a process of its own."""
    rendered = _decoder().render(_encode_clip(), MediumKind.VIDEO)
    others = [f"{name} {version(name)}" for name in ("decord",) if _is_installed(name)]
    seen = f"av {version('av')}: a clip of {FRAMES / 2:g} s gives {len(rendered.views)} views"
    return Finding("clips", "; also ".join([seen, *others]))


def check_machine() -> Finding:
    """CPUs and memory, limits of containers counted."""
    memory = count_memory_bytes()
    seen = f"{count_cpus()} CPUs, {memory / 2**30:.1f} GiB of memory"
    fix = "" if memory >= MIN_MEMORY_BYTES else "give this container or machine 4 GiB or more"
    return Finding("machine", seen, fix)


def check_space(folder: Path) -> Finding:
    """Room in a folder."""
    free = shutil.disk_usage(folder).free
    fix = "" if free >= MIN_FREE_BYTES else f"make room in {folder}, or name another (TMPDIR for scratch)"
    return Finding("free space", f"{free / 2**30:.1f} GiB in {folder}", fix)


def check_disk(folder: Path) -> Finding:
    """How fast a file is written to a folder and is safe there."""
    data = secrets.token_bytes(PROBE_BYTES)
    started = time.perf_counter()
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
        took_s = time.perf_counter() - started
    speed = PROBE_BYTES / 2**20 / took_s
    fix = "" if speed >= MIN_WRITE_MIB_S else f"put the corpus on a faster disk than that of {folder}"
    return Finding("disk", f"{speed:,.0f} MiB/s written and synced in {folder}", fix)


def check_storage(url: str) -> Finding:
    """Reach a corpus's storage and see that of two writers one wins: what exactly-once stands on."""
    storage = open_storage(url)
    path = f"scratch/doctor-{secrets.token_hex(8)}"
    first, second = storage.create(path, b"first"), storage.create(path, b"second")
    kept = storage.read_bytes(path)
    storage.remove(path)
    if (first, second, kept) != (True, False, b"first"):
        fix = "use a server that honors If-None-Match on PUT (AWS, Ceph, MinIO of today)"
        return Finding("storage", f"{storage.url} let a second writer win", fix)
    return Finding("storage", f"{storage.url} answers; of two writers the first one wins")


def check_ray(address: str | None) -> Finding:
    """Ray's version; where a cluster is named, that it answers with the same one."""
    installed = f"ray {version('ray')}"
    if address is None:
        return Finding("ray", f"{installed}; name a cluster with --ray-address to try it")
    from infra.ray_cluster import ray_cluster

    with ray_cluster(address):
        library: Any = importlib.import_module("ray")  # not before: it reads its settings when it is imported
        alive = [node for node in library.nodes() if node["Alive"]]
        resources: dict[str, float] = library.cluster_resources()
    counts = f"{resources.get('CPU', 0):g} CPUs, {resources.get('GPU', 0):g} GPUs"
    return Finding("ray", f"{installed}, as the cluster at {address}: {len(alive)} machines, {counts}")


def _guard(name: str, check: Callable[[], Finding]) -> Finding:
    """A check whose failure is its finding: errors of this project say the way out themselves."""
    try:
        return check()
    except (PipelineError, OSError, PackageNotFoundError) as error:
        return Finding(name, type(error).__name__, str(error))


def _decoder() -> IsolatedDecoder:
    return IsolatedDecoder(rendering_of(ViewsConfig(), CLIP_PROCESSOR))


def _encode_clip() -> bytes:
    import av

    library: Any = av
    file = io.BytesIO()
    with library.open(file, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=2)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for shade in range(FRAMES):
            pixels = np.full((64, 64, 3), 30 * shade, np.uint8)
            container.mux(stream.encode(library.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return file.getvalue()


def _is_installed(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True


def _nearest_folder(path: Path, is_local: bool) -> Path:
    """The folder itself, or the first one above it that is there."""
    if not is_local:
        return Path(tempfile.gettempdir())
    return next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.is_dir())
