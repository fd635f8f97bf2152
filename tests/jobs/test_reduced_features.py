"""Reducers in use: a reduced cache, reduction while features are read, and none of either trained for."""

import json
import math
import re
from pathlib import Path

import pytest
import torch
import yaml
from small_job import QUESTION, SmallJob, run_onetoken, write_job, write_yaml

from infra.storage import open_storage
from operators.collate import collate_training
from operators.reducers import build_reducer, reduce_frames
from operators.reducers.medium import MediumReducer
from operators.scoring.layouts import SHORT
from pipelines.commit import load_manifest, read_object
from pipelines.featurize.attention import read_attention
from pipelines.featurize.single import MediumEncoder
from pipelines.stream.reader import FeatureReader
from pipelines.stream.reducing import ReducingReader
from pipelines.stream.stream import FeatureStream
from pipelines.train.assembly import restore
from pipelines.train.checkpoint import open_checkpoint
from schemas.record import MediumKind
from schemas.reducer import ReducerConfig

PRUMERGE = ReducerConfig(name="prumerge")
POOLED = {"name": "average", "tokens": 16}


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> SmallJob:
    """A corpus with three caches: all patches, PruMerge's tokens, averages."""
    written = write_job(Path(tmp_path_factory.mktemp("reduced")))
    recipe = yaml.safe_load(written.recipe.read_text()) | {"codec": "fp16"}
    build(written, recipe)
    for reducer in ("prumerge", POOLED):
        outcome = run_onetoken(
            "featurize", write_yaml(written.recipe, recipe | {"reducer": reducer}), "--corpus", written.corpus
        )
        assert outcome.status == 0, outcome.err
    return written


def build(job: SmallJob, recipe: dict[str, object]) -> None:
    outcome = run_onetoken("build", write_yaml(job.recipe, recipe), "--corpus", job.corpus)
    assert outcome.status == 0, outcome.err


def specs_of(job: SmallJob) -> dict[str, str]:
    """Short digests by reducer, in the order in which the caches were made."""
    manifest = load_manifest(open_storage(str(job.corpus)))
    reader = [FeatureReader(open_storage(str(job.corpus)), manifest, digest) for digest in manifest.features]
    return {getattr(one.spec.reducer, "name", "none"): one.spec.short_digest for one in reader}


def open_cache(job: SmallJob, name: str) -> FeatureReader:
    storage = open_storage(str(job.corpus))
    return FeatureReader(storage, load_manifest(storage), specs_of(job)[name])


def list_items(reader: FeatureReader) -> list[tuple[str, str]]:
    return [(shard, key) for shard in reader.list_shards() for key in reader.list_keys(shard)]


def train(job: SmallJob, folder: Path, stage: int, **sections: object):
    config = yaml.safe_load(job.stage(stage).read_text())
    config["model"].pop("start_from", None)
    for name, values in sections.items():
        config[name] = config[name] | values if isinstance(values, dict) else values
    config["out"] = str(folder)
    config["run"] |= {"steps": 2, "save_every": 2}
    return run_onetoken("train", write_yaml(folder.with_suffix(".yaml"), config), "--json")


def test_the_digest_covers_the_reducer(job: SmallJob) -> None:
    assert sorted(specs_of(job)) == ["average", "none", "prumerge"]
    assert len(set(specs_of(job).values())) == 3


def test_a_reduced_cache_holds_what_the_reducer_leaves(job: SmallJob) -> None:
    """Of class rows and patches in fp16, which the encoder's own hardly differ from."""
    storage = open_storage(str(job.corpus))
    manifest = load_manifest(storage)
    full, reduced = open_cache(job, "none"), open_cache(job, "average")
    weights = read_attention(read_object(storage, manifest.features[full.spec.short_digest].attention))
    reducer = build_reducer(ReducerConfig.model_validate(POOLED))
    items = list_items(full)
    assert items == list_items(reduced)
    for shard, key in items:
        for whole, stored in zip(
            full.read_with_class_rows(key, shard), reduced.read_item(key, shard=shard), strict=True
        ):
            expected = reduce_frames(reducer, whole.patches, whole.class_rows, weights)
            assert stored.counts == expected.counts
            torch.testing.assert_close(
                stored.patches[:, 0].float(), expected.tokens.float(), rtol=2e-3, atol=2e-3
            )


def test_one_medium_is_reduced_as_the_cache_is(job: SmallJob) -> None:
    """Ragged, several views a frame and several frames: bit for bit."""
    cache = open_cache(job, "prumerge")
    eyes = MediumEncoder(cache.spec, str(job.encoder))
    facts = {path.read_bytes(): path for path in sorted((job.folder / "media").iterdir())}
    by_digest = {torch_digest(data): (data, path) for data, path in facts.items()}
    ragged: set[int] = set()
    for shard, key in list_items(cache):
        data, path = by_digest[key[:16]]
        kind = MediumKind.VIDEO if path.suffix == ".mp4" else MediumKind.IMAGE
        (stored,), fresh = cache.read_item(key, shard=shard), eyes.encode(data, kind)
        assert stored.counts == fresh.counts
        assert torch.equal(stored.patches, fresh.patches)
        ragged.update(stored.counts)
    assert len(ragged) > 1, "views keep different numbers of tokens"


def torch_digest(data: bytes) -> str:
    import hashlib

    return hashlib.sha256(data).hexdigest()[:16]


def test_a_reduced_cache_is_small_and_says_so(job: SmallJob, tmp_path: Path) -> None:
    manifest = load_manifest(open_storage(str(job.corpus)))
    sizes = {
        name: sum(shard.tar.num_bytes for shard in manifest.features[digest].shards)
        for name, digest in specs_of(job).items()
    }
    assert sizes["prumerge"] < 0.5 * sizes["none"]
    assert run_onetoken("verify", "--corpus", job.corpus).status == 0
    page = tmp_path / "report.html"
    assert run_onetoken("report", "--corpus", job.corpus, "--out", page).status == 0
    shares = re.findall(r"reduced by (\w+), ([0-9.]+) % of the cache of all patches", page.read_text())
    expected = {name: 100 * sizes[name] / sizes["none"] for name in ("average", "prumerge")}
    assert {name: float(share) for name, share in shares} == pytest.approx(expected, abs=0.06)


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("prumerge", 1),
        pytest.param("prumerge", 0, marks=SLOW),
        pytest.param("average", 0, marks=SLOW),
        pytest.param("average", 1, marks=SLOW),
    ],
)
def test_a_reduced_cache_trains_and_is_evaluated(job: SmallJob, tmp_path: Path, name: str, layers) -> None:
    spec = specs_of(job)[name]
    model = {"reducer": "all", "prefusion": {"layers": layers}}
    outcome = train(job, tmp_path / "run", 2, model=model, spec=spec, data={"views": "all"})
    assert outcome.status == 0, outcome.err
    other = tmp_path / "other"
    other.symlink_to(job.corpus)
    evaluated = run_onetoken("evaluate", tmp_path / "run", "--corpus", other, "--json")
    assert evaluated.status == 0, evaluated.err
    assert evaluated.values["sources"]["clips"]["examples"] == 2
    asked = run_onetoken(
        "generate", tmp_path / "run", "--video", job.folder / "media/v_red.mp4", QUESTION, "--json"
    )
    assert asked.status == 0, asked.err


def test_inspect_tells_how_many_tokens_are_left(job: SmallJob) -> None:
    cache = open_cache(job, "prumerge")
    shard, key = list_items(cache)[0]
    (path,) = (job.corpus / "features" / cache.spec.short_digest).glob(f"{shard}-*.tar")
    outcome = run_onetoken("inspect", path, key)
    assert outcome.status == 0, outcome.err
    (line,) = [line for line in outcome.out.splitlines() if "reduced to tokens by view" in line]
    told = [int(count) for count in line.partition(": ")[2].split(", ")]
    assert sum(told) == sum(count for medium in cache.read_item(key, shard=shard) for count in medium.counts)


def test_a_cache_of_tokens_has_no_patches_to_compress(job: SmallJob, tmp_path: Path) -> None:
    outcome = train(job, tmp_path / "run", 2, spec=specs_of(job)["prumerge"])
    assert outcome.status == 2
    assert "reducer: all" in outcome.said


@pytest.mark.parametrize(
    "name",
    ["prumerge", *(pytest.param(name, marks=SLOW) for name in ("prumerge_plus", "tome", "spatial"))],
)
def test_a_reducer_trains_over_the_full_cache(job: SmallJob, tmp_path: Path, name: str) -> None:
    outcome = train(
        job, tmp_path / "run", 2, model={"reducer": name}, spec=specs_of(job)["none"], data={"views": "all"}
    )
    assert outcome.status == 0, outcome.err
    losses = [json.loads(line)["loss"] for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert len(losses) == 2


def test_a_look_at_a_checkpoint_reduces_as_its_training_did(job: SmallJob, tmp_path: Path) -> None:
    """`analyze attention` and `audit` see the tokens that PruMerge leaves, of 576 at most 144 a view."""
    spec = specs_of(job)["none"]
    model = {"reducer": "prumerge", "prefusion": {"layers": 0}}
    assert train(job, tmp_path / "run", 2, model=model, spec=spec).status == 0
    looked = ("--out", tmp_path / "attention", "--examples", 3, "--layers", 1, "--json")
    attention = run_onetoken("analyze", "attention", tmp_path / "run", *looked)
    assert attention.status == 0, attention.err
    bits = [row["vision_entropy_bits"] for row in attention.values["layers"]]
    assert 0 < max(bits) < math.log2(144)
    audit = run_onetoken(
        "audit",
        "--corpus",
        job.corpus,
        "--spec",
        spec,
        "--views",
        2,
        "--checkpoint",
        tmp_path / "run",
        "--json",
    )
    assert audit.status == 0, audit.err
    loss = audit.values["loss"]
    assert loss["stored"] == pytest.approx(loss_of(job, tmp_path / "run", spec), rel=1e-4)
    assert loss["recomputed"] == pytest.approx(loss["stored"], rel=0.01)


def loss_of(job: SmallJob, run: Path, spec: str) -> float:
    """Over the first step of the order, an example at a time, reduced while it is read."""
    storage, checkpoint = open_storage(str(job.corpus)), open_checkpoint(run)
    manifest, data = load_manifest(storage), checkpoint.config.data.in_counts(8, 1)
    stream = FeatureStream(storage, manifest, spec, data, seed=0, num_epochs=1)
    stream.reader = ReducingReader(storage, manifest, spec, PRUMERGE)
    assembly = restore(checkpoint, to_train=False)
    with torch.inference_mode():
        losses = [
            assembly.model.eval()(collate_training(batch, assembly.prompter)) for batch in next(iter(stream))
        ]
    return sum(float(loss.total) for loss in losses) / sum(loss.num_labels for loss in losses)


def test_reading_reduces_as_the_reducer_does(job: SmallJob) -> None:
    storage = open_storage(str(job.corpus))
    manifest, spec = load_manifest(storage), specs_of(job)["none"]
    reducing, plain = ReducingReader(storage, manifest, spec, PRUMERGE), open_cache(job, "none")
    weights = read_attention(read_object(storage, manifest.features[spec].attention))
    slow = MediumReducer(build_reducer(PRUMERGE), weights)
    for shard, key in list_items(plain):
        (found,) = reducing.read_features([(shard, key)], views="whole")
        for got, whole in zip(found, plain.read_with_class_rows(key, shard, views="whole"), strict=True):
            expected = slow.reduce(whole)
            assert got.counts == expected.counts
            assert torch.equal(got.patches, expected.patches)


def test_a_picture_and_a_clip_are_reduced_without_training(job: SmallJob, tmp_path: Path) -> None:
    plain = {"reducer": "all", "prefusion": {"layers": 0}}
    assert train(job, tmp_path / "llava", 2, model=plain, spec=specs_of(job)["none"]).status == 0
    for medium in (("--video", "v_red.mp4"), ("--image", "0.png")):
        asked = (medium[0], job.folder / "media" / medium[1], QUESTION)
        assert run_onetoken("generate", tmp_path / "llava", *asked, "--reducer", "prumerge").status == 0
    check_benchmark(job, tmp_path)


def check_benchmark(job: SmallJob, folder: Path) -> None:
    """A benchmark's question gets the answer of `generate` with the same reducer, not the one without."""
    questions, answers = folder / "pope.json", folder / "answers.jsonl"
    questions.write_text(json.dumps({"question_id": 1, "image": "0.png", "text": QUESTION, "label": "no"}))
    media = job.folder / "media"
    options = ("--benchmark", "pope", "--questions", questions, "--pictures", media, "--answers", answers)
    said: list[str] = []
    for reducer in ((), ("--reducer", "{name: average, tokens: 1}")):
        assert run_onetoken("evaluate", folder / "llava", *options, *reducer).status == 0
        said.append(json.loads(answers.read_text())["answer"])
        alone = ("--image", media / "0.png", f"{QUESTION}\n{SHORT}", "--max-new-tokens", 16, "--json")
        assert run_onetoken("generate", folder / "llava", *alone, *reducer).values["answer"] == said[-1]
    assert said[0] != said[1]


@pytest.mark.slow
def test_reducers_work_without_training(job: SmallJob, tmp_path: Path) -> None:
    """A LLaVA-1.5-like checkpoint, one of stage 1, and one whose queries cannot be taken out."""
    full = specs_of(job)["none"]
    plain = {"reducer": "all", "prefusion": {"layers": 0}}
    assert train(job, tmp_path / "llava", 2, model=plain, spec=full).status == 0
    assert train(job, tmp_path / "stage1", 1, spec=full).status == 0
    assert train(job, tmp_path / "query", 2, spec=full).status == 0
    other = tmp_path / "other"
    other.symlink_to(job.corpus)
    losses = {}
    for reducer in (None, "prumerge", "{name: average, tokens: 1}", "all"):
        chosen = ("--reducer", reducer) if reducer else ()
        for checkpoint in ("llava", "stage1"):
            found = run_onetoken("evaluate", tmp_path / checkpoint, "--corpus", other, "--json", *chosen)
            assert found.status == 0, found.err
            losses[checkpoint, reducer] = found.values["sources"]["pictures"]["loss"]
        clip = ("--video", job.folder / "media/v_red.mp4", QUESTION)
        assert run_onetoken("generate", tmp_path / "llava", *clip, *chosen).status == 0
    for checkpoint in ("llava", "stage1"):
        assert losses[checkpoint, "all"] == losses[checkpoint, None]
        assert (
            len({losses[checkpoint, name] for name in (None, "prumerge", "{name: average, tokens: 1}")}) == 3
        )
    picture = ("--image", job.folder / "media/0.png", QUESTION)
    refused = run_onetoken("generate", tmp_path / "query", *picture, "--reducer", "prumerge")
    assert refused.status == 2
    assert "cannot be taken out" in refused.said
    for bad, words in (("qformer", "has to be trained"), ("prumrge", "--reducer"), ("{name: [", "YAML")):
        outcome = run_onetoken("generate", tmp_path / "llava", *picture, "--reducer", bad)
        assert outcome.status == 2
        assert words in outcome.said
