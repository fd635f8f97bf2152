"""SIGTERM during training: what was learned is saved, and the exit status is 0; or the deadline passes."""

import os
import signal
import subprocess
import sys
import textwrap
import time

from jobs.stopping import SoftStop


def test_the_signal_is_a_wish() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with SoftStop(60) as stop:
        assert not stop.is_asked()
        os.kill(os.getpid(), signal.SIGTERM)
        deadline = time.monotonic() + 30
        while not stop.is_asked() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert stop.is_asked()
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before


def test_after_the_deadline_the_process_ends() -> None:
    script = textwrap.dedent(
        """
        import os, signal, time
        from jobs.stopping import SoftStop
        with SoftStop(0.1):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(300)
        """
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "not saved within 0 s" in done.stderr
