"""A small job, taken once through every command."""

from pathlib import Path

import pytest
from small_job import Outcome, SmallJob, run_onetoken, write_job


@pytest.fixture(scope="session")
def small_job(tmp_path_factory: pytest.TempPathFactory) -> SmallJob:
    """Inputs and models; no command has run."""
    return write_job(Path(tmp_path_factory.mktemp("job")))


@pytest.fixture(scope="session")
def outcomes(small_job: SmallJob) -> dict[str, Outcome]:
    """What each command said, in the order of the work; every one succeeded."""
    said: dict[str, Outcome] = {}
    for verb in ("ingest", "shard", "featurize"):
        said[verb] = run_onetoken(verb, small_job.recipe, "--corpus", small_job.corpus, "--json")
        assert said[verb].status == 0, said[verb].err
    for number in (1, 2):
        said[f"stage{number}"] = run_onetoken("train", small_job.stage(number), "--json")
        assert said[f"stage{number}"].status == 0, said[f"stage{number}"].err
    return said
