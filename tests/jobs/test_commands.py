"""What each verb says to wrong usage: an exit status, a message that helps, and nothing else."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from small_job import QUESTION, SmallJob, run_onetoken, talk, write_llm, write_picture, write_yaml

from infra.storage import LocalStorage
from pipelines.commit import load_manifest
from pipelines.train.assembly import restore
from pipelines.train.checkpoint import open_checkpoint
from schemas.record import Turn

STAGES = ("ingest", "shard", "featurize", "build")
UPKEEP = ("verify", "diff", "gc", "report")
NUM_PATCHES = 576
VERBS = (*STAGES, *UPKEEP, "lengths", "train", "generate", "inspect", "demo", "bench")
FAILED, USAGE, OVER_BUDGET = 1, 2, 3


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """A function that writes a recipe over one picture in the current folder, with changes."""
    monkeypatch.chdir(tmp_path)
    write_picture(tmp_path / "media/a.png", "red")
    rows = [{"id": 1, "image": "a.png", "conversations": talk("<image>\nQ?", "A")}]
    (tmp_path / "a.json").write_text(json.dumps(rows))

    def write(source: dict[str, object] | None = None, **changes: object) -> Path:
        sources = {"name": "s", "format": "llava", "annotations": "a.json", "media_root": "media"}
        document = {"name": "one", "sources": [sources | (source or {})], **changes}
        return write_yaml(tmp_path / "recipe.yaml", document)

    return write


def refuse(status: int, message: str, *arguments: object) -> None:
    """Run a command that has to fail in this way."""
    outcome = run_onetoken(*arguments)
    assert message in outcome.said
    assert (outcome.status, outcome.out) == (status, "")


def required_arguments(verb: str) -> list[object]:
    given = {
        "lengths": ["c.yaml"],
        "train": ["c.yaml"],
        "generate": ["run", "Q?"],
        "inspect": ["path"],
        "bench": ["ingest"],
        "demo": [],
        "verify": ["--corpus", "corpus"],
        "gc": ["--corpus", "corpus"],
        "report": ["--corpus", "corpus"],
        "diff": ["one", "other"],
    }
    return given.get(verb, ["r.yaml", "--corpus", "corpus"])


def test_there_are_these_verbs():
    outcome = run_onetoken("--help")
    assert outcome.status == 0
    assert all(f" {verb} " in outcome.out for verb in VERBS)


def test_an_unknown_verb_is_named():
    refuse(USAGE, "No such command 'featurise'", "featurise")


@pytest.mark.parametrize("verb", VERBS)
def test_help_names_every_verb(verb):
    outcome = run_onetoken(verb, "--help")
    assert (outcome.status, outcome.err) == (0, "")
    assert f"onetoken {verb}" in outcome.out
    assert "--json" in outcome.out


@pytest.mark.parametrize("verb", VERBS)
def test_a_wrong_flag_is_named(verb):
    refuse(USAGE, "No such option: --frob", verb, *required_arguments(verb), "--frob")
    refuse(USAGE, f"Try 'onetoken {verb} --help'", verb, *required_arguments(verb), "--frob")


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb not in ("demo", "inspect")])
def test_a_missing_argument_is_named(verb):
    needs_corpus = verb in ("verify", "gc", "report")
    refuse(USAGE, "Missing option '--corpus'" if needs_corpus else "Missing argument", verb)


@pytest.mark.parametrize("verb", STAGES)
def test_stages_need_a_corpus_and_a_known_engine(recipe, verb):
    refuse(USAGE, "Missing option '--corpus'", verb, recipe())
    refuse(
        USAGE,
        "'dask' is not one of 'serial', 'processes', 'ray'",
        verb,
        recipe(),
        "--corpus",
        "c",
        "--engine",
        "dask",
    )
    address = ("--corpus", "c", "--ray-address", "auto")
    refuse(USAGE, "--ray-address goes with --engine ray", verb, recipe(), *address)
    workers = ("--corpus", "c", "--workers", "2")
    refuse(USAGE, "--workers goes with --engine processes or ray", verb, recipe(), *workers)
    refuse(
        USAGE,
        "greater than or equal to 1",
        verb,
        recipe(),
        "--corpus",
        "c",
        "--engine",
        "processes",
        "--workers",
        "0",
    )


def test_the_demo_needs_a_known_engine():
    refuse(USAGE, "'dask' is not one of 'serial', 'processes', 'ray'", "demo", "--engine", "dask")


@pytest.mark.parametrize("verb", [*STAGES, "train"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file or directory; give the path of a YAML file"),
        (b"", "input should be a valid dictionary"),
        (bytes(range(256)), "is not UTF-8 text"),
        (b"name: a\0b", "not readable as YAML"),
        (b"[1, 2]", "input should be a valid dictionary"),
        (b"? [a, b]\n: 1\n", "a key is no plain text"),
        (b"name: 2024-99-99\n", "not readable as YAML"),
        (b"a: !!python/object/apply:os.system [ls]\n", "tags (!) are refused"),
        (b"frob: 1\n", "unknown key 'frob'"),
    ],
)
def test_what_is_no_configuration_is_refused(tmp_path, verb, content, message):
    path = tmp_path / "config.yaml"
    if content is not None:
        path.write_bytes(content)
    corpus = [] if verb == "train" else ["--corpus", tmp_path / "corpus"]
    refuse(USAGE, message, verb, path, *corpus)
    assert not (tmp_path / "corpus").exists()


@pytest.mark.parametrize("verb", [*STAGES, "train"])
def test_a_path_that_is_no_file_is_refused(tmp_path, verb):
    corpus = [] if verb == "train" else ["--corpus", tmp_path / "corpus"]
    (tmp_path / "file").touch()
    refuse(USAGE, "Is a directory; give the path of a YAML file", verb, tmp_path, *corpus)
    refuse(USAGE, "Not a directory; give the path", verb, tmp_path / "file/r.yaml", *corpus)
    refuse(USAGE, "name too long; give the path", verb, tmp_path / ("r" * 300), *corpus)


def list_files(folder):
    return [path for path in Path(folder).rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"media_rot": "media"}, "unknown key 'sources.0.media_rot', did you mean 'media_root'?"),
        (
            {"format": "lava"},
            "input should be 'llava', 'video_chatgpt', 'onevision', 'llava_next', 'sharegpt' or 'llava_yaml'",
        ),
        ({"media_root": "a.json"}, "is no folder, no tar and no zip"),
        ({"media_root": "nowhere"}, "source s: media_root nowhere is no folder"),
        ({"media_root": None}, "give the source a media_root"),
        ({"annotations": "nothing-*.json"}, "no annotation file nothing-*.json; paths start from"),
        ({"annotations": "media"}, "no annotation file media"),
        ({"annotations": []}, "at least 1 item"),
        ({"annotations": "s4://bucket/a.json"}, "annotations are local files or s3://BUCKET/KEY"),
    ],
)
def test_a_wrong_source_is_told(recipe, source, message):
    refuse(USAGE, message, "ingest", recipe(source), "--corpus", "corpus")
    assert list_files("corpus") == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "neither JSON list, JSON lines nor parquet; it is empty"),
        (bytes(range(200, 256)), "neither JSON list, JSON lines nor parquet"),
        (b"PAR1" + bytes(100), "damaged parquet"),
        (b"\x1f\x8b" + bytes(100), "gzip"),
        (b'[{"id": 1}, {"id"', "row 1, byte 12"),
        (b"\xff\xfe[\x00]\x00", "UTF-16; convert it to UTF-8"),
    ],
)
def test_annotations_that_cannot_be_read_are_told(recipe, content, message):
    Path("a.json").write_bytes(content)
    refuse(FAILED, message, "ingest", recipe(), "--corpus", "corpus")
    assert list_files("corpus") == []


@pytest.mark.parametrize(
    ("corpus", "message"),
    [
        ("", "is no place for a corpus; name a folder"),
        ("a.json", "is a file; name a folder"),
        ("a.json/below", "is a file; name a folder"),
        ("gs://bucket/corpus", "no storage for gs://; use a local path"),
        ("corpus\0", "is no place for a corpus"),
    ],
)
@pytest.mark.parametrize("verb", STAGES)
def test_what_cannot_be_a_corpus_is_refused(recipe, verb, corpus, message):
    refuse(USAGE, message, verb, recipe(), "--corpus", corpus)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_corpus_that_may_not_be_written(recipe):
    Path("locked").mkdir(mode=0o500)
    refuse(FAILED, "Permission denied", "ingest", recipe(), "--corpus", "locked/corpus")


def test_what_the_system_refuses_is_no_traceback(recipe):
    refuse(FAILED, "run the same command again", "ingest", recipe(), "--corpus", "/proc/nobody/corpus")


def test_stages_come_in_order(recipe):
    corpus = ("--corpus", "corpus")
    refuse(FAILED, "holds no corpus; build one with `onetoken ingest`", "shard", recipe(), *corpus)
    refuse(FAILED, "holds no corpus; build one with `onetoken ingest`", "featurize", recipe(), *corpus)
    assert run_onetoken("ingest", recipe(), *corpus).status == 0
    refuse(FAILED, "run `onetoken ingest` and `onetoken shard`", "featurize", recipe(), *corpus)
    training = write_yaml(Path("train.yaml"), {"corpus": "corpus", "stage": 1, "out": "run"})
    refuse(FAILED, "has no features; run `onetoken featurize` first", "train", training)


def test_a_recipe_that_changed_since_ingest_is_told(recipe):
    corpus = ("--corpus", "corpus")
    assert run_onetoken("ingest", recipe(), *corpus).status == 0
    changed = {"views": {"image": "global"}}
    refuse(FAILED, "run `onetoken ingest` with it first", "shard", recipe(**changed), *corpus)
    assert run_onetoken("shard", recipe(name="two"), *corpus).status == 0
    refuse(FAILED, "run `onetoken ingest` and `onetoken shard`", "featurize", recipe(**changed), *corpus)


@pytest.mark.parametrize(
    ("model", "status", "message"),
    [
        ("nowhere/model", FAILED, "encoder 'nowhere/model' cannot be loaded"),
        ("media", FAILED, "encoder 'media' cannot be loaded"),
        ("llama", USAGE, "encoder 'llama' is a 'llama' model; known are clip"),
    ],
)
def test_an_encoder_that_cannot_be_loaded_is_named(recipe, model, status, message):
    Path("llama").mkdir()
    Path("llama/config.json").write_text('{"model_type": "llama"}')
    corpus = ("--corpus", "corpus")
    for verb in ("ingest", "shard"):
        assert run_onetoken(verb, recipe(), *corpus).status == 0
    refuse(status, message, "featurize", recipe(encoder={"model": model}), *corpus)


def test_over_the_reject_budget_is_status_3(recipe):
    row = {"id": 1, "image": "a.png", "conversations": talk("<image>\nQ?", "A")}
    Path("a.json").write_text(json.dumps([row | {"id": 2}, row | {"image": "gone.png"}]))
    outcome = run_onetoken("ingest", recipe(), "--corpus", "corpus", "--json")
    assert outcome.status == OVER_BUDGET
    assert "s: 1 of 2 records rejected, the budget is 5 %; spent on missing_file 1." in outcome.said
    assert "raise reject_budget" in outcome.said
    assert outcome.values["read"] == outcome.values["written"] + outcome.values["rejected"] == 2
    tolerant = run_onetoken("ingest", recipe({"reject_budget": 0.5}), "--corpus", "corpus")
    assert tolerant.status == 0


@pytest.fixture(scope="module")
def trained(small_job: SmallJob, outcomes) -> SmallJob:
    """The small job after both stages."""
    return small_job


def write_training(job: SmallJob, folder: Path, **changes: object) -> Path:
    document = yaml.safe_load(job.stage(1).read_text()) | {"out": str(folder / "run")} | changes
    return write_yaml(folder / "train.yaml", document)


@pytest.mark.parametrize(
    ("changes", "status", "message"),
    [
        ({"corpus": "/nowhere"}, FAILED, "/nowhere holds no corpus"),
        ({"spec": "0123456789"}, FAILED, "the corpus has no features of spec 0123456789; it has"),
        ({"model": {"llm": "nowhere/llm"}}, USAGE, "`model.llm: nowhere/llm` cannot be loaded"),
        ({"stage": 3}, USAGE, "stage: input should be 1 or 2"),
        ({"run": {"step": 4}}, USAGE, "unknown key 'run.step', did you mean 'steps'?"),
        ({"data": {"batch": 3, "micro_batch": 2}}, USAGE, "batch 3 is no multiple of micro_batch 2"),
        ({"data": {"sources": {"picture": 1.0}}}, USAGE, "picture"),
    ],
)
def test_a_wrong_training_is_told(trained, tmp_path, changes, status, message):
    refuse(status, message, "train", write_training(trained, tmp_path, **changes))
    assert not (tmp_path / "run").exists()


def test_examples_that_are_all_too_long_are_told(trained, tmp_path):
    document = yaml.safe_load(trained.stage(2).read_text()) | {"out": str(tmp_path / "run")}
    document["data"]["max_tokens"] = 8
    config = write_yaml(tmp_path / "train.yaml", document)
    refuse(USAGE, "8 of which no prompt can be written or that are too long", "train", config)
    assert not (tmp_path / "run").exists()


def test_an_example_beyond_the_context_is_told(trained, tmp_path):
    """Texts are short, and with the patches of their pictures longer than what the language model reads."""
    llm = tmp_path / "llm"
    config = write_training(trained, tmp_path, model={"llm": str(llm)})
    write_llm(llm, max_length=NUM_PATCHES)
    refuse(USAGE, f"6 examples are longer than the 576 tokens that `model.llm: {llm}` reads", "train", config)
    said = run_onetoken("train", config).said
    longest = int(re.findall(r"the longest, \S+, has (\d+), those of its media among them", said)[0])
    assert NUM_PATCHES < longest < NUM_PATCHES + 20
    write_llm(llm, max_length=longest - 1)
    refuse(USAGE, f"longer than the {longest - 1} tokens", "train", config)
    assert not (tmp_path / "run").exists()
    write_llm(llm, max_length=longest)
    assert run_onetoken("train", config).status == 0


def write_fresh_training(
    job: SmallJob, folder: Path, max_length: int, model: dict[str, object], **sections: dict[str, object]
) -> Path:
    """Stage 2 from the beginning, with a language model that reads so many tokens."""
    document = yaml.safe_load(job.stage(2).read_text()) | {"out": str(folder / "run")}
    document["model"] = {"llm": str(write_llm(folder / "llm", max_length=max_length))} | model
    for name, changes in sections.items():
        document[name] |= changes
    return write_yaml(folder / "train.yaml", document)


def test_what_prefusion_reads_beyond_the_context_is_told(trained, tmp_path):
    """One token a picture is short for the language model; its patches come before the instruction."""
    model = {"prefusion": {"layers": 1}}
    config = write_fresh_training(trained, tmp_path, NUM_PATCHES, model)
    said = run_onetoken("train", config).said
    told = re.findall(
        r"pre-fusion reads (\d+) tokens of example \w+, (\d+) of a frame and (\d+) of its", said
    )
    whole, fixed, instruction = map(int, told[0])
    assert (fixed, whole) == (NUM_PATCHES + 1, fixed + instruction)
    config = write_fresh_training(trained, tmp_path, whole - 1, model)
    refuse(USAGE, f"pre-fusion reads {whole} tokens", "train", config)
    write_fresh_training(trained, tmp_path, whole - 1, model, data={"views": "all"})
    refuse(USAGE, f"pre-fusion reads {whole + 4 * NUM_PATCHES} tokens", "train", config)
    assert not (tmp_path / "run").exists()
    write_fresh_training(trained, tmp_path, whole, model)
    assert run_onetoken("train", config).status == 0


def test_held_out_examples_are_looked_at_before_the_first_step(trained, tmp_path):
    """Clips of several frames are held out; pictures alone would fit."""
    plan = load_manifest(LocalStorage(trained.corpus)).plan
    clips = [leaf.name for leaf in plan if leaf.name.startswith("video")]
    model = {"reducer": "all", "prefusion": {"layers": 0}}
    data: dict[str, object] = {"exclude": clips}
    config = write_fresh_training(trained, tmp_path, 2 * NUM_PATCHES, model, data=data)
    assert run_onetoken("train", config).status == 0
    shutil.rmtree(tmp_path / "run")
    run: dict[str, object] = {"evaluate_every": 1}
    write_fresh_training(trained, tmp_path, 2 * NUM_PATCHES, model, data=data, run=run)
    refuse(USAGE, f"2 examples are longer than the {2 * NUM_PATCHES} tokens", "train", config)
    data["sources"] = {"pictures": 1.0}
    write_fresh_training(trained, tmp_path, 4096, model, data=data, run=run)
    refuse(
        USAGE, "of the shards under `data.exclude`, which are held out, no example is left", "train", config
    )
    assert not (tmp_path / "run").exists()


def test_training_starts_from_checkpoints_only(trained, tmp_path):
    document = yaml.safe_load(trained.stage(2).read_text()) | {"out": str(tmp_path / "run")}
    document["model"]["start_from"] = str(tmp_path)
    config = write_yaml(tmp_path / "train.yaml", document)
    refuse(FAILED, f"no checkpoint at {tmp_path}; name a step-NNNNNN folder", "train", config)


def test_a_used_out_needs_resume(trained):
    refuse(FAILED, "pass --resume to go on, or choose another `out`", "train", trained.stage(1))


def test_an_out_that_is_a_file_is_told(trained, tmp_path):
    (tmp_path / "run").touch()
    refuse(USAGE, "is a file", "train", write_training(trained, tmp_path))


def test_a_damaged_checkpoint_is_told(trained, tmp_path):
    shutil.copytree(trained.out(1), tmp_path / "run")
    weights = sorted((tmp_path / "run").glob("step-*/model.safetensors"))[-1]
    weights.write_bytes(weights.read_bytes()[:-1])
    config = write_training(trained, tmp_path)
    refuse(FAILED, "is missing or not as it was written; remove", "train", config, "--resume")


def test_generate_takes_one_medium(trained):
    picture, clip = trained.folder / "media/0.png", trained.folder / "media/v_red.mp4"
    command = ("generate", trained.out(2), QUESTION)
    refuse(USAGE, "give either --image FILE or --video FILE", *command, "--image", picture, "--video", clip)
    refuse(USAGE, "no file", *command, "--image", trained.folder / "none.png")
    refuse(USAGE, "no file", *command, "--image", trained.folder)
    refuse(USAGE, "--max-new-tokens", *command, "--image", picture, "--max-new-tokens", 0)
    refuse(USAGE, "--encoder goes with --image or --video", *command, "--encoder", trained.encoder)


def test_generate_answers_what_is_about_no_medium(trained, monkeypatch):
    """By the language model alone: no encoder is there to look with."""
    monkeypatch.setattr("pipelines.featurize.single.MediumEncoder.__init__", None)
    outcome = run_onetoken("generate", trained.out(2), QUESTION, "--max-new-tokens", 4, "--json")
    assert outcome.status == 0, outcome.err
    assert outcome.values == {"question": QUESTION, "answer": say_alone(trained.out(2), QUESTION, 4)}
    refuse(FAILED, "stage 1 describes one", "generate", trained.out(1), QUESTION)


def say_alone(out: Path, question: str, num_tokens: int) -> str:
    """What the checkpoint's language model says to a prompt, by the library's own generation."""
    assembly = restore(open_checkpoint(out), to_train=False)
    prompt = assembly.prompter.write_question((Turn("human", question),), 0).token_ids
    said = assembly.model.llm.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
        max_new_tokens=num_tokens,
        do_sample=False,
        eos_token_id=sorted(assembly.prompter.stop_ids),
    )
    new = [token for token in said[0, len(prompt) :].tolist() if token not in assembly.prompter.stop_ids]
    return assembly.tokenizer.decode(new).strip()


def test_generate_tells_what_is_no_picture(trained, tmp_path):
    command = ("generate", trained.out(2), QUESTION)
    text = tmp_path / "text.png"
    text.write_text("no picture at all")
    refuse(FAILED, f"unknown_format: {text}: ", *command, "--image", text)
    clip = trained.folder / "media/v_red.mp4"
    refuse(FAILED, "wrong_kind", *command, "--image", clip)
    refuse(FAILED, "wrong_kind", *command, "--video", trained.folder / "media/0.png")


def test_generate_tells_an_empty_question(trained):
    picture = trained.folder / "media/0.png"
    refuse(USAGE, "ask something", "generate", trained.out(2), " ", "--image", picture)


def test_a_placeholder_in_a_question_is_told(trained):
    picture = trained.folder / "media/0.png"
    refuse(FAILED, "placeholder", "generate", trained.out(2), "What is <image>?", "--image", picture)


def test_generate_needs_a_checkpoint(trained, tmp_path):
    options = (QUESTION, "--image", trained.folder / "media/0.png")
    for folder in (tmp_path, tmp_path / "none", trained.folder / "media/0.png"):
        refuse(FAILED, "no checkpoint at", "generate", folder, *options)
    (tmp_path / "state.json").write_text("{}")
    refuse(FAILED, "cannot be read", "generate", tmp_path, *options)


def test_generate_needs_an_encoder(trained, tmp_path):
    options = (QUESTION, "--image", trained.folder / "media/0.png")
    refuse(FAILED, "cannot be loaded", "generate", trained.out(2), *options, "--encoder", tmp_path)


def test_inspect_tells_what_it_can_show(trained, tmp_path):
    refuse(USAGE, "give a corpus folder, a shard (.tar), or a picture or clip", "inspect", tmp_path / "none")
    refuse(USAGE, "is no shard; a key goes with", "inspect", tmp_path, "0" * 32)
    refuse(FAILED, "holds no corpus", "inspect", tmp_path)
    text = tmp_path / "text.txt"
    text.write_text("no medium")
    refuse(FAILED, f"unknown_format: {text}: ", "inspect", text)
    tar = tmp_path / "no.tar"
    tar.write_bytes(bytes(range(256)) * 8)
    refuse(FAILED, "no.tar", "inspect", tar)
    shard = sorted((trained.corpus / "shards").glob("*.tar"))[0]
    refuse(FAILED, "holds no item 'frob'; `onetoken inspect", "inspect", shard, "frob")


def test_the_installed_program_says_the_same(tmp_path):
    command = [Path(sys.executable).with_name("onetoken"), "ingest", "none.yaml", "--corpus", "corpus"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (USAGE, "")
    assert ended.stderr.startswith("error: cannot read none.yaml")
    assert "Traceback" not in ended.stderr
