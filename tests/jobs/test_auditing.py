"""`onetoken audit`, and the audit that a recipe demands: what is said, and when it fails."""

import shutil

import pytest
import torch
import yaml
from small_job import run_onetoken, write_yaml

from infra.storage import LocalStorage
from operators.collate import collate_training
from pipelines.commit import load_manifest
from pipelines.stream.stream import FeatureStream
from pipelines.train.assembly import restore
from pipelines.train.checkpoint import open_checkpoint
from schemas.fidelity import AuditRecord

pytestmark = pytest.mark.usefixtures("outcomes")


def run_audit(job, *options):
    return run_onetoken("audit", "--corpus", job.corpus, "--views", 6, *options)


def write_recipe(job, path, **floor):
    document = yaml.safe_load(job.recipe.read_text())
    return write_yaml(path, document | {"audit": floor})


def test_words_and_json_say_the_same_and_it_is_kept(small_job, outcomes):
    told = run_audit(small_job, "--json")
    assert told.status == 0, told.err
    record = AuditRecord.model_validate(
        {name: value for name, value in told.values.items() if name != "path"}
    )
    spec = outcomes["featurize"].values["spec"]
    assert (len(record.views), record.spec_sha256[:16], record.loss) == (6, spec, None)
    assert record.fidelity.worst_raw_cosine > 0.9999
    kept = AuditRecord.model_validate_json((small_job.corpus / told.values["path"]).read_text())
    assert kept == record
    words = run_audit(small_job, "--spec", spec[:8])
    assert words.status == 0
    assert f"worst token {record.fidelity.worst_raw_cosine:.6f}" in words.out
    assert words.out.splitlines()[-1].endswith(f"as faithful as demanded; kept as {told.values['path']}")
    assert run_onetoken("verify", "--corpus", small_job.corpus).status == 0


def test_the_loss_of_stored_features_is_that_of_training(small_job):
    told = run_audit(small_job, "--checkpoint", small_job.out(2), "--json")
    assert told.status == 0, told.err
    loss = told.values["loss"]
    checkpoint = open_checkpoint(small_job.out(2))
    storage = LocalStorage(small_job.corpus)
    manifest = load_manifest(storage)
    data = checkpoint.config.data.in_counts(8, 1)
    stream = FeatureStream(storage, manifest, told.values["spec_sha256"][:16], data, seed=0)
    examples = [example for batch in next(iter(stream)) for example in batch]
    pictures = [example for example in examples if example.media and example.media[0].num_frames == 1]
    others = [[example] for example in examples if example not in pictures]
    assert len(pictures) > 1
    assembly = restore(checkpoint, to_train=False)
    with torch.inference_mode():
        model = assembly.model.eval()
        found = [model(collate_training(batch, assembly.prompter)) for batch in (pictures, *others)]
    num_labels = sum(one.num_labels for one in found)
    assert (loss["num_examples"], loss["num_labels"]) == (len(examples), num_labels)
    assert loss["stored"] == pytest.approx(sum(float(one.total) for one in found) / num_labels, rel=1e-4)
    assert 0 < abs(loss["stored"] - loss["recomputed"]) < 0.01 * loss["recomputed"]
    assert loss["checkpoint_step"] == checkpoint.state.step


def test_a_floor_of_the_loss_needs_a_checkpoint_and_may_fail(small_job, tmp_path):
    demanding = write_recipe(small_job, tmp_path / "demanding.yaml", loss_change=0.0)
    without = run_audit(small_job, "--recipe", demanding)
    assert without.status == 2
    assert "--checkpoint" in without.said
    failed = run_audit(small_job, "--recipe", demanding, "--checkpoint", small_job.out(2))
    assert failed.status == 1
    assert "below the floor: loss_change is" in failed.out
    easy = write_recipe(small_job, tmp_path / "easy.yaml", loss_change=0.5)
    assert run_audit(small_job, "--recipe", easy, "--checkpoint", small_job.out(2)).status == 0


def test_a_checkpoint_of_other_features_is_refused(small_job, tmp_path):
    corpus = tmp_path / "corpus"
    shutil.copytree(small_job.corpus, corpus)
    document = yaml.safe_load(small_job.recipe.read_text()) | {"codec": "fp16"}
    made = run_onetoken("featurize", write_yaml(tmp_path / "r.yaml", document), "--corpus", corpus, "--json")
    assert made.status == 0, made.err
    refused = run_onetoken("audit", "--corpus", corpus, "--checkpoint", small_job.out(2))
    assert (refused.status, refused.out) == (1, "")
    assert "codec.name is int8 here and fp16 wanted" in refused.said


def test_features_of_another_corpus_are_copied_by_command(small_job, tmp_path, outcomes):
    there = tmp_path / "there"
    options = ("--corpus", there, "--reuse", small_job.corpus, "--json")
    built = run_onetoken("build", small_job.recipe, *options)
    assert built.status == 0, built.err
    features = outcomes["featurize"].values
    assert {name: built.values[name] for name in ("spec", "views", "feature_bytes")} == {
        name: features[name] for name in ("spec", "views", "feature_bytes")
    }
    assert built.values["throughput"]["featurize"]["views_reused"] == features["views"]
    refused = run_onetoken("ingest", small_job.recipe, *options)
    assert refused.status == 2
    assert "--reuse and --decoders go with featurize and build" in refused.said


def test_a_recipe_that_demands_it_ends_featurize_with_an_audit(small_job, tmp_path, outcomes):
    corpus = tmp_path / "corpus"
    shutil.copytree(small_job.corpus, corpus)
    easy = write_recipe(small_job, tmp_path / "easy.yaml", raw_cosine=0.99, loss_change=0.1)
    passed = run_onetoken("featurize", easy, "--corpus", corpus, "--json")
    assert passed.status == 0, passed.err
    assert passed.values["audit"]["shortfalls"] == []
    assert passed.values["spec"] == outcomes["featurize"].values["spec"]
    again = run_onetoken("featurize", easy, "--corpus", corpus)
    assert again.status == 0
    assert "audit:" not in again.said, "an audit that was kept is not repeated"
    assert "for `loss_change`: onetoken audit" in again.out
    impossible = write_recipe(small_job, tmp_path / "impossible.yaml", raw_cosine=1.0)
    for _ in range(2):
        failed = run_onetoken("build", impossible, "--corpus", corpus, "--json")
        assert failed.status == 1
        (shortfall,) = failed.values["audit"]["shortfalls"]
        assert shortfall.startswith("raw_cosine is 0.99")
