"""What holds for every verb: an example that works, completion, the version, colour where it is wanted."""

import json
import os
import pty
import re
import shlex
import signal
import subprocess
import sys

import pytest
import typer.main
from small_job import run_onetoken

from jobs.cli import build_app
from jobs.examples import EXAMPLES

GROUP = typer.main.get_group(build_app())
COLOR = re.compile(r"\x1b\[[0-9;]*\b(3[0-9]|4[0-9]|9[0-7])m")
BAD_CALL = ("gc", "--corpus", "/nowhere/at/all")


def run(*words, **environment):
    command = [sys.executable, "-c", "from jobs.cli import main; main()", *words]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=120, env={**os.environ, **environment}, check=False
    )


def test_a_signal_from_outside_ends_the_tests_and_is_no_result_of_a_command(monkeypatch):
    monkeypatch.setattr("small_job.main", lambda _: sys.exit(128 + signal.SIGTERM))
    with pytest.raises(pytest.exit.Exception, match="SIGTERM came from outside"):
        run_onetoken("doctor")


def test_every_verb_has_an_example():
    grouped = [f"analyze {name}" for name in GROUP.commands["analyze"].commands]
    assert set(EXAMPLES) == {*GROUP.commands, *grouped}


@pytest.mark.parametrize("example", [one for examples in EXAMPLES.values() for one in examples])
def test_an_example_is_understood(example):
    name, verb, *arguments = shlex.split(example)
    assert name == "onetoken"
    command = GROUP.commands[verb]
    command.make_context(verb, list(arguments), resilient_parsing=False)


@pytest.mark.parametrize("verb", EXAMPLES)
def test_help_shows_the_example(verb):
    outcome = run_onetoken(*verb.split(), "--help")
    assert (outcome.status, outcome.err) == (0, "")
    shown = " ".join(outcome.out.split())
    assert all(" ".join(example.split()) in shown for example in EXAMPLES[verb])


def test_the_version_is_told():
    outcome = run_onetoken("--version")
    assert (outcome.status, outcome.out, outcome.err) == (0, "onetoken 0.1.0\n", "")


def test_verbs_are_completed():
    done = run(
        _MAIN_COMPLETE="x", _ONETOKEN_COMPLETE="complete_bash", COMP_WORDS="onetoken re", COMP_CWORD="1"
    )
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, ["retry", "report"], "")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_completion_script_is_given(shell):
    done = run(_ONETOKEN_COMPLETE=f"source_{shell}")
    assert done.returncode == 0
    assert "_ONETOKEN_COMPLETE" in done.stdout


def on_a_terminal(**environment):
    """What a command that fails writes to a terminal."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-c", "from jobs.cli import main; main()", *BAD_CALL]
    kept = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR")}
    process = subprocess.Popen(
        command,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**kept, "TERM": "xterm-256color", **environment},
    )
    os.close(theirs)
    written = b""
    while True:
        try:
            piece = os.read(ours, 65536)
        except OSError:
            break
        if not piece:
            break
        written += piece
    os.close(ours)
    assert process.wait(60) == 1
    return written.decode()


def test_colour_is_for_terminals_and_not_where_it_is_unwanted():
    assert COLOR.search(on_a_terminal())
    plain = on_a_terminal(NO_COLOR="1")
    assert "holds no corpus" in plain
    assert not COLOR.search(plain)


def test_without_a_terminal_results_and_messages_go_their_ways():
    done = run(*BAD_CALL)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ")
    assert "\x1b" not in done.stderr


def test_the_doctor_tells_a_line_a_thing(tmp_path):
    outcome = run_onetoken("doctor", "--corpus", tmp_path, "--json")
    findings = json.loads(outcome.out)["findings"]
    assert outcome.err == ""
    assert outcome.status == (1 if any(finding["fix"] for finding in findings) else 0)
    assert len(findings) == 11
