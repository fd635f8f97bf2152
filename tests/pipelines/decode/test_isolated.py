"""Whatever a decoder does to its process, the owner goes on: one typed reject, the next medium is right."""

import gc
import io
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from decode_samples import POLICY, make_picture
from indexed_clips import make_clip
from PIL import Image

from operators.render import render_medium
from operators.video import read_video_facts
from pipelines.decode.child import allow_time
from pipelines.decode.isolated import IsolatedDecoder
from pipelines.decode.wire import DecodeLimits
from schemas.errors import RejectCode, SampleError, WorkError
from schemas.record import MediumKind

SHORT = DecodeLimits(deadline_s=3.0, memory_bytes=2**28, files_per_process=100)
FOLDER = Path(__file__).parent


@pytest.fixture(scope="module")
def clip():
    return make_clip("mp4")


@pytest.fixture(scope="module")
def decoder():
    with IsolatedDecoder(POLICY) as decoder:
        yield decoder


@pytest.fixture
def faulty(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(FOLDER))
    with IsolatedDecoder(POLICY, SHORT, module="faulty_child") as decoder:
        yield decoder


def list_children(owner=None):
    """Decoding processes that are alive, or dead and not collected."""
    found = subprocess.run(
        ["ps", "--no-headers", "-o", "pid,args", "--ppid", str(owner or os.getpid())],
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    return [int(line.split()[0]) for line in found.splitlines() if "child" in line or "defunct" in line]


def assert_same(ours, data, kind):
    expected = render_medium(data, kind, POLICY)
    np.testing.assert_array_equal(ours.views, expected.views)
    assert (ours.num_frames, ours.views_per_frame) == (expected.num_frames, expected.views_per_frame)
    assert (ours.frame_times_s, ours.report) == (expected.frame_times_s, expected.report)


def reject_code(call, *arguments):
    with pytest.raises(SampleError) as caught:
        call(*arguments)
    return caught.value.code


def test_views_and_facts_are_those_of_this_process(decoder, clip):
    before = set(list_children())
    assert_same(decoder.render(make_picture(), MediumKind.IMAGE), make_picture(), MediumKind.IMAGE)
    rendered = decoder.render(clip, MediumKind.VIDEO)
    assert_same(rendered, clip, MediumKind.VIDEO)
    assert rendered.views.shape == (7, 56, 56, 3)
    assert decoder.read_video_facts(clip) == read_video_facts(clip)
    assert len(set(list_children()) - before) == 1


def test_media_follow_each_other_without_a_trace(decoder, clip):
    """A short medium after a long one must not see the end of the long one."""
    long, short = make_picture(1, (300, 200)), make_picture(2, (8, 8))
    for data in (long, short, long):
        assert_same(decoder.render(data, MediumKind.IMAGE), data, MediumKind.IMAGE)
        assert_same(decoder.render(clip, MediumKind.VIDEO), clip, MediumKind.VIDEO)


@pytest.mark.parametrize("changes", [{"preprocess": "fast"}, {"backend": "decord"}], ids=str)
def test_libraries_that_are_loaded_late_are_there(clip, changes):
    policy = replace(POLICY, **changes)
    with IsolatedDecoder(policy, SHORT) as decoder:
        for data, kind in ((make_picture(), MediumKind.IMAGE), (clip, MediumKind.VIDEO)):
            ours, expected = decoder.render(data, kind), render_medium(data, kind, policy)
            np.testing.assert_array_equal(ours.views, expected.views)
            assert ours.report == expected.report


@pytest.mark.parametrize(
    ("data", "kind", "code"),
    [
        (b"", MediumKind.IMAGE, RejectCode.EMPTY_FILE),
        (b"", MediumKind.VIDEO, RejectCode.EMPTY_FILE),
        (b"<html></html>", MediumKind.VIDEO, RejectCode.UNKNOWN_FORMAT),
        (make_picture(), MediumKind.VIDEO, RejectCode.WRONG_KIND),
        (make_picture()[:-20], MediumKind.IMAGE, RejectCode.TRUNCATED_IMAGE),
        (b"\x00\x00\x00\x20ftypisom" + bytes(4000), MediumKind.VIDEO, RejectCode.DAMAGED_VIDEO),
    ],
)
def test_ordinary_rejects_cost_no_process(decoder, data, kind, code):
    decoder.render(make_picture(), MediumKind.IMAGE)
    before = list_children()
    assert reject_code(decoder.render, data, kind) is code
    if kind is MediumKind.VIDEO:
        assert reject_code(decoder.read_video_facts, data) is code
    assert list_children() == before


DEADLY = [
    (b"hang", False, RejectCode.DECODER_TIMEOUT, r"still at work after \d+ s"),
    (b"hang with the lock", True, RejectCode.DECODER_TIMEOUT, r"still at work after \d+ s"),
    (b"crash", True, RejectCode.DECODER_CRASH, "SIGSEGV"),
    (b"crash", False, RejectCode.DECODER_CRASH, "SIGSEGV"),
    (b"abort", True, RejectCode.DECODER_CRASH, "SIGABRT"),
    (b"exit", True, RejectCode.DECODER_CRASH, "status 7"),
    (b"raise", True, RejectCode.DECODER_CRASH, "nobody foresaw this"),
    (b"eat", True, RejectCode.DECODER_OUT_OF_MEMORY, "256 MiB"),
    (b"eat", False, RejectCode.DECODER_OUT_OF_MEMORY, "256 MiB"),
    (b"eat in the library", False, RejectCode.DECODER_OUT_OF_MEMORY, "FFmpeg got no memory"),
]


@pytest.mark.parametrize(
    ("order", "is_first", "code", "said"),
    DEADLY,
    ids=[f"{order.decode()}-{'first' if is_first else 'later'}" for order, is_first, _, _ in DEADLY],
)
def test_what_kills_the_decoder_costs_its_own_file(faulty, order, is_first, code, said):
    good, others = make_picture(), list_children()
    if not is_first:
        faulty.render(good, MediumKind.IMAGE)
    with pytest.raises(SampleError, match=said) as caught:
        faulty.render(order, MediumKind.IMAGE)
    assert caught.value.code is code
    assert list_children() == others
    assert_same(faulty.render(good, MediumKind.IMAGE), good, MediumKind.IMAGE)
    assert len(list_children()) == len(others) + 1


def test_a_file_does_not_pay_for_what_another_did_to_the_process(faulty, tmp_path):
    """A crash in a process that has worked is tried once more, in a new one."""
    good, mark = make_picture(), tmp_path / "mark"
    faulty.render(good, MediumKind.IMAGE)
    before = list_children()
    rendered = faulty.render(b"crash once " + bytes(mark) + b"\n" + good, MediumKind.IMAGE)
    assert mark.exists()
    assert list_children() != before
    assert_same(rendered, good, MediumKind.IMAGE)


def test_a_long_clip_has_longer(faulty, clip):
    """The decoder takes four seconds: three are allowed, and half of the 3.5 s that the clip lasts."""
    assert allow_time(SHORT, 3.5, 105) == 3.0 + 1.75
    assert_same(faulty.render(clip, MediumKind.VIDEO), clip, MediumKind.VIDEO)


def test_broken_timestamps_buy_no_time():
    limits = DecodeLimits()
    assert allow_time(limits, 120.0, 3600) == 90.0
    assert allow_time(limits, 1e12, 100) == 80.0
    assert allow_time(limits, -5.0, 100) == 30.0


def test_memory_is_limited_for_real():
    """16 megapixels are 64 MB as Pillow keeps them, and twice that on the way."""
    data = make_picture(0, (64, 64))
    buffer = io.BytesIO()
    Image.new("RGBA", (4000, 4000), (1, 2, 3, 4)).save(buffer, "PNG")
    with IsolatedDecoder(POLICY, DecodeLimits(memory_bytes=2**26)) as decoder:
        code = reject_code(decoder.render, buffer.getvalue(), MediumKind.IMAGE)
        assert code is RejectCode.DECODER_OUT_OF_MEMORY
        assert_same(decoder.render(data, MediumKind.IMAGE), data, MediumKind.IMAGE)
    with IsolatedDecoder(POLICY) as decoder:
        assert decoder.render(buffer.getvalue(), MediumKind.IMAGE).views.shape == (5, 56, 56, 3)


def test_processes_are_replaced_after_some_files():
    limits, others, seen = DecodeLimits(files_per_process=2), set(list_children()), []
    with IsolatedDecoder(POLICY, limits) as decoder:
        for _ in range(5):
            decoder.render(make_picture(), MediumKind.IMAGE)
            seen += set(list_children()) - others
    assert len(seen) == 5
    assert [seen.index(number) for number in seen] == [0, 0, 2, 2, 4]


def test_a_forgotten_decoder_leaves_no_process():
    decoder, others = IsolatedDecoder(POLICY), list_children()
    decoder.render(make_picture(), MediumKind.IMAGE)
    assert len(list_children()) == len(others) + 1
    del decoder
    gc.collect()
    assert list_children() == others


def test_a_decoder_that_cannot_start_is_no_fault_of_the_file():
    decoder = IsolatedDecoder(POLICY, module="no_such_module")
    with pytest.raises(WorkError, match=r"does not start; .*no_such_module"):
        decoder.render(make_picture(), MediumKind.IMAGE)


def decode_in_another_process(decoder, queue):
    rendered = decoder.render(make_picture(), MediumKind.IMAGE)
    queue.put((rendered.views.tobytes(), len(list_children())))
    decoder.close()


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_daemons_may_decode_and_a_fork_gets_a_process_of_its_own(decoder):
    """A daemonic process may not have children by multiprocessing."""
    own = decoder.render(make_picture(), MediumKind.IMAGE)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=decode_in_another_process, args=(decoder, queue), daemon=True)
    process.start()
    assert queue.get(timeout=60) == (own.views.tobytes(), 1)
    process.join(60)
    assert process.exitcode == 0
    np.testing.assert_array_equal(decoder.render(make_picture(), MediumKind.IMAGE).views, own.views)


OWNER = """
import sys
sys.path[:0] = [{root!r}, {folder!r}]
from test_isolated import *
decoder = IsolatedDecoder(POLICY, SHORT, module="faulty_child")
decoder.render(make_picture(), MediumKind.IMAGE)
print(*list_children(), flush=True)
{act}
"""


def is_alive(number):
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    return "defunct" not in Path(f"/proc/{number}/cmdline").read_text() and Path(
        f"/proc/{number}/stat"
    ).read_text().rpartition(")")[2].split()[0] not in {"Z", "X"}


@pytest.mark.parametrize(
    ("act", "limit_s"),
    [
        ("input()", 10.0),
        pytest.param("decoder.render(b'hang with the lock', MediumKind.IMAGE)", 30.0, marks=pytest.mark.slow),
    ],
    ids=["idle", "hanging"],
)
def test_orphans_end_by_themselves(act, limit_s):
    script = OWNER.format(root=str(FOLDER.parent.parent), folder=str(FOLDER), act=act)
    environment = os.environ | {"PYTHONPATH": str(FOLDER)}
    with subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=FOLDER.parent.parent.parent,
    ) as owner:
        (number,) = map(int, owner.stdout.readline().split())
        assert is_alive(number)
        time.sleep(0.5)
        owner.send_signal(signal.SIGKILL)
        owner.wait()
    deadline_s = time.monotonic() + limit_s
    while is_alive(number) and time.monotonic() < deadline_s:
        time.sleep(0.1)
    assert not is_alive(number)
