"""`onetoken evaluate`: losses against a slow twin, held-out shards, and a benchmark from file to score."""

import json
from dataclasses import replace

import pytest
import yaml
from small_job import QUESTION, SmallJob, run_onetoken, write_yaml

from infra.storage import open_storage
from jobs.console import Reporter
from jobs.evaluating import run_by_source
from jobs.training_data import open_training_data
from operators.collate import collate_training
from operators.scoring import Question
from pipelines.commit import load_manifest
from pipelines.evaluate.answering import check_pictures
from pipelines.stream.stream import FeatureStream
from pipelines.sweep.held_out import choose_held_out
from pipelines.train.answer import answer
from pipelines.train.assembly import restore
from pipelines.train.checkpoint import latest_checkpoint, open_checkpoint
from schemas.errors import ConfigError, MismatchError

pytestmark = pytest.mark.usefixtures("outcomes")


def evaluate(*arguments: object):
    return run_onetoken("evaluate", *arguments, "--json")


def examples_of(job: SmallJob, exclude: tuple[str, ...]):
    storage = open_storage(str(job.corpus))
    manifest = load_manifest(storage)
    checkpoint = open_checkpoint(latest_checkpoint(job.out(2)))
    data = checkpoint.config.data.model_copy(update={"exclude": exclude, "batch": 1, "micro_batch": 1})
    stream = FeatureStream(storage, manifest, manifest.latest_spec, data, seed=5, num_epochs=1)
    return checkpoint, [example for step in stream for batch in step for example in batch]


def slow_results(job: SmallJob, exclude: tuple[str, ...]) -> dict[str, dict[str, float]]:
    """One example at a time."""
    checkpoint, examples = examples_of(job, exclude)
    assembly = restore(checkpoint, to_train=False)
    found: dict[str, dict[str, float]] = {}
    for example in examples:
        loss = assembly.model.eval()(collate_training([example], assembly.prompter))
        (text,) = answer(assembly, [example], 24, checkpoint.config.run)
        mine = found.setdefault(example.source, {"examples": 0, "labels": 0, "loss": 0.0, "right": 0})
        mine["examples"] += 1
        mine["labels"] += loss.num_labels
        mine["loss"] += float(loss.total)
        mine["right"] += text == example.turns[-1].text
    return found


def check_against_slow(values, expected) -> None:
    assert values.keys() == expected.keys()
    for name, slow in expected.items():
        one = values[name]
        assert one["examples"] == one["asked"] == slow["examples"] > 0
        assert (one["labels"], one["right"], one["no_prompt"]) == (slow["labels"], slow["right"], 0)
        assert one["loss"] == pytest.approx(slow["loss"] / slow["labels"], rel=1e-4)


def test_another_corpus_is_evaluated_whole(small_job, tmp_path) -> None:
    other = tmp_path / "other"
    other.symlink_to(small_job.corpus)
    outcome = evaluate(small_job.out(2), "--corpus", other)
    assert outcome.status == 0, outcome.err
    check_against_slow(outcome.values["sources"], slow_results(small_job, ()))
    words = run_onetoken("evaluate", small_job.out(2), "--corpus", other).out
    assert "pictures" in words
    assert "clips" in words


def test_features_of_another_spec_are_refused_field_by_field(small_job, tmp_path) -> None:
    """Where a checkpoint is evaluated and where it goes on: what differs from what it was trained on."""
    other = tmp_path / "other"
    other.symlink_to(small_job.corpus)
    checkpoint = open_checkpoint(latest_checkpoint(small_job.out(2)))
    spec = checkpoint.state.identity.spec
    trained = spec.model_copy(
        update={"codec": spec.codec.model_copy(update={"name": "fp16", "version": 1}), "aspect": "squash"}
    )
    identity = checkpoint.state.identity.model_copy(update={"spec": trained})
    changed = replace(checkpoint, state=checkpoint.state.model_copy(update={"identity": identity}))
    told = (
        f"aspect is pad here and squash wanted; codec.name is int8 here and fp16 wanted; "
        f"codec.version is {spec.codec.version} here and 1 wanted; run"
    )
    with Reporter() as reporter, pytest.raises(MismatchError, match=told):
        run_by_source(changed, str(other), reporter)
    with pytest.raises(MismatchError, match=told):
        open_training_data(changed.config, changed)


def test_held_out_shards_are_those_that_training_left_out(small_job, tmp_path) -> None:
    names = [leaf.name for leaf in load_manifest(open_storage(str(small_job.corpus))).plan]
    held_out = next(name for name in names if name.startswith("image"))
    document = yaml.safe_load(small_job.stage(2).read_text())
    document["out"] = str(tmp_path / "run")
    document["data"]["exclude"] = [held_out]
    document["run"] |= {"steps": 1, "save_every": 1}
    assert run_onetoken("train", write_yaml(tmp_path / "c.yaml", document)).status == 0
    outcome = evaluate(tmp_path / "run")
    assert outcome.status == 0, outcome.err
    others = tuple(name for name in names if name != held_out)
    _, examples = examples_of(small_job, others)
    assert outcome.values["sources"]["pictures"]["examples"] == len(examples) > 0
    assert outcome.values["sources"].keys() == {"pictures"}


def test_a_share_holds_out_the_same_shards_whenever_it_is_asked(small_job, tmp_path) -> None:
    plan = load_manifest(open_storage(str(small_job.corpus))).plan
    document = yaml.safe_load(small_job.stage(2).read_text())
    document["out"] = str(tmp_path / "run")
    document["run"] |= {"steps": 2, "save_every": 1, "log_every": 1, "held_out": 0.01, "evaluate_every": 1}
    config = write_yaml(tmp_path / "c.yaml", document)
    assert run_onetoken("train", config).status == 0
    assert run_onetoken("train", config, "--resume").status == 0
    run = open_checkpoint(latest_checkpoint(tmp_path / "run")).config
    assert run.run.held_out is None
    assert run.data.exclude == choose_held_out(plan, 0.01)
    assert 0 < len(run.data.exclude) < len(plan)
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [line["held_out_loss"] > 0 for line in lines if line.get("held_out_loss")] == [True, True]
    outcome = evaluate(tmp_path / "run")
    assert outcome.status == 0, outcome.err
    _, examples = examples_of(small_job, tuple({leaf.name for leaf in plan} - {*run.data.exclude}))
    assert sum(one["examples"] for one in outcome.values["sources"].values()) == len(examples) > 0
    shown = run_onetoken("inspect", "--config", config, "--step", "1")
    assert shown.status == 0, shown.err


def test_a_share_and_names_are_too_many(small_job, tmp_path) -> None:
    document = yaml.safe_load(small_job.stage(2).read_text())
    document["data"]["exclude"], document["run"]["held_out"] = ["image-0"], 0.1
    outcome = run_onetoken("train", write_yaml(tmp_path / "c.yaml", document))
    assert outcome.status == 2
    assert "give either run.held_out" in outcome.said


def test_what_was_trained_on_is_not_held_out(small_job) -> None:
    outcome = evaluate(small_job.out(2))
    assert outcome.status == 2
    assert "run.held_out" in outcome.said
    assert "data.exclude" in outcome.said


def test_a_benchmark_from_file_to_score(small_job, tmp_path) -> None:
    rows = [
        {"question_id": number, "image": f"{number % 6}.png", "text": QUESTION, "label": label}
        for number, label in enumerate(["yes", "no"] * 10)
    ]
    answers, media = tmp_path / "answers.jsonl", small_job.folder / "media"
    named: list[object] = []
    for part, some in (("random", rows[:12]), ("popular", rows[12:])):
        (tmp_path / f"{part}.json").write_text("\n".join(map(json.dumps, some)))
        named += ["--questions", tmp_path / f"{part}.json"]
    outcome = evaluate(
        *(small_job.out(2), "--benchmark", "pope", *named, "--pictures", media, "--answers", answers)
    )
    assert outcome.status == 0, outcome.err
    written = [json.loads(line) for line in answers.read_text().splitlines()]
    assert [row["question_id"] for row in written] == [
        f"{'random' if number < 12 else 'popular'}-{number}" for number in range(20)
    ]
    said = ["no" if {"No", "no", "not"} & set(row["answer"].split()) else "yes" for row in written]
    right = [one == row["label"] for one, row in zip(said, rows, strict=True)]
    values = outcome.values
    assert values["parts"]["accuracy"] == pytest.approx(50 * (sum(right[:12]) / 12 + sum(right[12:]) / 8))
    assert values["overall"] == (values["parts"]["F1 of random"] + values["parts"]["F1 of popular"]) / 2
    alone = run_onetoken(
        "generate",
        small_job.out(2),
        rows[3]["text"] + "\nAnswer the question using a single word or phrase.",
        "--image",
        media / rows[3]["image"],
        "--max-new-tokens",
        16,
        "--json",
    )
    assert written[3]["answer"] == alone.values["answer"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--pictures", "media"), "--pictures: of no use"),
        (("--limit", "3", "--corpus", "c"), "--limit: of no use"),
        (("--answers", "a.jsonl"), "--answers: of no use"),
        (("--encoder", "e", "--limit", "1"), "--limit, --encoder: of no use"),
        (("--benchmark", "pope", "--questions", "x.json", "--answers", "no/a.jsonl"), "no folder no"),
        (("--benchmark", "pope"), "go together"),
        (("--benchmark", "nope", "--questions", "x.json"), "mmbench"),
        (("--benchmark", "pope", "--questions", "nowhere.json"), "nowhere.json"),
        (("--benchmark", "vqav2", "--questions", "x.json"), "needs 2"),
        (
            ("--benchmark", "pope", "--questions", "x.json", "--questions", "y/x.json"),
            "two files are named x",
        ),
        (("--benchmark", "pope", "--questions", "/dev/null"), "no question in"),
        (("--benchmark", "pope", "--questions", "x.json", "--corpus", "c"), "either"),
    ],
)
def test_wrong_options_are_told(small_job, options, words: str) -> None:
    outcome = evaluate(small_job.out(2), *options)
    assert outcome.status == 2
    assert words in outcome.said


def test_a_missing_picture_ends_the_run(small_job, tmp_path) -> None:
    questions = tmp_path / "pope.json"
    questions.write_text(json.dumps({"question_id": 1, "image": "9.png", "text": "?", "label": "no"}))
    options = ("--benchmark", "pope", "--questions", questions)
    for more, words in ((("--pictures", small_job.folder / "media"), "9.png"), ((), "--pictures")):
        outcome = evaluate(small_job.out(2), *options, *more)
        assert outcome.status == 2
        assert words in outcome.said


def test_a_folder_for_pictures_that_stand_in_the_file_is_refused(tmp_path) -> None:
    inside = Question(question_id="1", prompt="?", answers=("A",), image_bytes=b"x")
    check_pictures([inside], None)
    check_pictures([inside, Question(question_id="2", prompt="?", answers=("A",))], tmp_path)
    with pytest.raises(ConfigError, match="leave --pictures out"):
        check_pictures([inside], tmp_path)
