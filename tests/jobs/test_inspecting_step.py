"""`onetoken inspect --config --step` and `onetoken lengths`: what training plans with, what a step sees."""

import json
import shutil
from itertools import islice

import pytest
import yaml
from small_job import QUESTION, SmallJob, run_onetoken, write_yaml

from infra.storage import open_storage
from jobs.training_data import open_stream, open_training_data
from operators.collate import collate_training
from pipelines.commit import load_manifest
from pipelines.engine import SerialEngine
from pipelines.stream.lengths import count_lengths, list_uncounted
from pipelines.train.assembly import load_prompter
from schemas.configuration import parse_yaml
from schemas.training import TrainConfig

pytestmark = pytest.mark.usefixtures("outcomes")


@pytest.fixture
def config(small_job: SmallJob, tmp_path):
    """A function that writes a configuration of stage 2 that no run has used."""

    def write(**data: object):
        document = yaml.safe_load(small_job.stage(2).read_text())
        document |= {"out": str(tmp_path / "never-run"), "data": document["data"] | data}
        return write_yaml(tmp_path / "c.yaml", document)

    return write


def read_steps(path, number: int):
    """The steps that training would take, and its prompter."""
    config = parse_yaml(path.read_text(), TrainConfig, "")
    data = open_training_data(config)
    _, prompter = load_prompter(config)
    lengths = count_lengths(data.storage, data.manifest.examples, prompter, SerialEngine())
    return list(islice(open_stream(config, data, lengths), number)), prompter


def test_a_step_is_what_training_sees(config) -> None:
    path = config(batch=4)
    steps, prompter = read_steps(path, 5)
    num_pictures = num_clips = 0
    for number, step in enumerate(steps, start=1):
        outcome = run_onetoken("inspect", "--config", path, "--step", number, "--json")
        assert outcome.status == 0, outcome.err
        shown = [unit["examples"] for unit in outcome.values["units"]]
        wanted = [[example.example_id for example in batch] for batch in step]
        assert [[example["example_id"] for example in unit] for unit in shown] == wanted
        for batch, examples in zip(step, shown, strict=True):
            tensors = collate_training(batch, prompter)
            for row, example in enumerate(examples):
                spans = example["prompt"]
                learned = [span for span in spans if span["role"] == "learned"]
                assert sum(span["tokens"] for span in learned) == int((tensors.labels[row] >= 0).sum())
                assert sum(span["tokens"] for span in spans) == int(tensors.attention_mask[row].sum())
                assert learned[0]["text"].strip().startswith(batch[row].turns[1].text)
                (medium,) = example["media"]
                assert medium["num_frames"] == batch[row].media[0].num_frames
                num_pictures += medium["facts"]["kind"] == "image"
                num_clips += medium["facts"]["kind"] == "video"
    assert num_pictures > 0
    assert num_clips > 0
    assert (outcome.values["epoch"], outcome.values["step_of_epoch"]) == (2, 1)


def test_words_tell_roles_apart(config) -> None:
    outcome = run_onetoken("inspect", "--config", config(), "--step", 1)
    lines = [line.split() for line in outcome.out.splitlines()]
    assert {line[0] for line in lines if line[0] in ("fused", "learned", "medium", "neither")} >= {
        "fused",
        "learned",
        "medium",
    }
    assert f"\\n{QUESTION}" in outcome.out
    assert " pixels" in outcome.out
    assert "frames of 1 views read" in outcome.out


def test_ranks_share_a_step(config) -> None:
    path = config(batch=4)
    whole = run_onetoken("inspect", "--config", path, "--step", 1, "--json").values["units"]
    parts = [
        run_onetoken("inspect", "--config", path, "--step", 1, "--rank", rank, "--ranks", 2, "--json").values
        for rank in (0, 1)
    ]
    assert [[unit["rank"] for unit in part["units"]] for part in parts] == [[0], [1]]
    woven = [unit["examples"] for part in parts for unit in part["units"]]
    assert woven == [unit["examples"] for unit in whole]


def test_a_run_is_looked_at_with_its_own_manifest_and_tokenizer(small_job: SmallJob) -> None:
    """Of the run that was made: its checkpoint pins both."""
    outcome = run_onetoken("inspect", "--config", small_job.stage(2), "--step", 2, "--json")
    assert outcome.status == 0, outcome.err
    metrics = (small_job.out(2) / "metrics.jsonl").read_text().splitlines()
    logged = json.loads(metrics[1])
    (unit,) = outcome.values["units"]
    assert (logged["step"], logged["num_examples"]) == (2, len(unit["examples"]))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--rank", 2, "--ranks", 2), "rank 2 is none of 2 ranks; say with --ranks"),
        (("corpus",), "give PATH|URL, or --config and --step"),
    ],
)
def test_wrong_usage_is_named(config, arguments: tuple[object, ...], said: str) -> None:
    outcome = run_onetoken("inspect", "--config", config(), "--step", 1, *arguments)
    assert (outcome.status, outcome.out) == (2, "")
    assert said in outcome.said
    assert run_onetoken("inspect").status == 2


@pytest.mark.parametrize("engine", ["serial", "processes"])
def test_tokens_are_counted_once_on_the_chosen_engine(
    small_job: SmallJob, config, tmp_path, engine: str
) -> None:
    copy = tmp_path / "corpus"
    shutil.copytree(small_job.corpus, copy)
    shutil.rmtree(copy / "lengths")
    for path in (copy / "commits").glob("lengths-*"):
        path.unlink()
    arguments = ["lengths", config(), "--corpus", copy, "--engine", engine, "--json"]
    first = run_onetoken(*arguments)
    assert first.status == 0, first.err
    assert first.values["read"] == first.values["counted"] == first.values["written"] == 8
    again = run_onetoken(*arguments)
    assert again.values == first.values | {"counted": 0}
    own = [path.read_bytes() for path in sorted((small_job.corpus / "lengths").glob("*/*"))]
    assert all(path.read_bytes() in own for path in (copy / "lengths").glob("*/*"))


def test_training_says_that_it_counts(small_job: SmallJob, config, outcomes, tmp_path) -> None:
    assert (
        "counting the tokens of 8 examples, once for this tokenizer and template" in outcomes["stage2"].said
    )
    storage = open_storage(str(small_job.corpus))
    _, prompter = load_prompter(parse_yaml(config().read_text(), TrainConfig, ""))
    assert list_uncounted(storage, load_manifest(storage).examples, prompter) == []
