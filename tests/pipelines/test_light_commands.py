"""Commands that encode nothing load no encoder: it takes seconds, and every process would pay them."""

import subprocess
import sys
from pathlib import Path

from build_commands import environment

PROGRAM = """\
import sys
from jobs.cli import main

recipe, corpus = sys.argv[1:]
for verb in ("ingest", "shard"):
    try:
        main([verb, recipe, "--corpus", corpus])
    except SystemExit as left:
        assert not left.code, left.code
print("loaded", *sorted({"torch", "transformers", "ray", "s3fs", "polars"} & sys.modules.keys()))
"""


def test_ingest_and_shard_load_no_encoder(recipe: Path, tmp_path: Path) -> None:
    words = [sys.executable, "-c", PROGRAM, str(recipe), str(tmp_path / "corpus")]
    done = subprocess.run(words, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "loaded polars"
    assert list((tmp_path / "corpus/shards").iterdir())
