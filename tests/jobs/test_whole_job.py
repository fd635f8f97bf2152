"""A small job through the command line: ingest, shard, featurize, train, resume, generate, inspect."""

import json
import math
import shutil

import pytest
import yaml
from small_job import CUT_AT, NUM_STEPS, QUESTION, SmallJob, run_onetoken, write_encoder, write_yaml

TOTALS = {"read", "written", "rejected", "rejects", "media", "unique_media"}

pytestmark = pytest.mark.usefixtures("outcomes")


def test_ingest_accounts_for_every_record(outcomes):
    values = outcomes["ingest"].values
    assert values.keys() >= TOTALS
    assert values["read"] == values["written"] + values["rejected"] == 10
    assert values["rejects"] == {"missing_file": 1, "empty_answer": 1}
    assert (values["media"], values["unique_media"]) == (8, 8)


def test_shard_and_featurize_say_how_much(outcomes):
    assert outcomes["shard"].values["items"] == 8
    features = outcomes["featurize"].values
    num_views = 6 * 5 + 2 * 3
    assert (features["items"], features["views"]) == (8, num_views)
    assert features["fp16_bytes"] == num_views * 576 * 16 * 2
    assert features["feature_rejects"] == {}


def test_build_finds_all_of_it_done(small_job, outcomes):
    built = run_onetoken("build", small_job.recipe, "--corpus", small_job.corpus, "--json")
    assert built.status == 0
    expected = outcomes["ingest"].values | outcomes["shard"].values | outcomes["featurize"].values
    assert (expected["media_read"], expected["media_unchanged"]) == (8, 0)
    assert expected["throughput"]["featurize"]["bytes"] > 0
    assert built.values == expected | {"media_read": 0, "media_unchanged": 8, "throughput": {}}
    assert "shard:" not in built.said
    assert "featurize:" not in built.said


def test_words_and_json_say_the_same(small_job, outcomes):
    words = run_onetoken("ingest", small_job.recipe, "--corpus", small_job.corpus)
    assert "ingest: read 10 = written 8 + rejected 2" in words.out.splitlines()
    assert "missing_file 1" in words.out


def test_both_stages_train(outcomes, small_job):
    for number in (1, 2):
        values = outcomes[f"stage{number}"].values
        assert values["steps"] == NUM_STEPS
        assert math.isfinite(values["first_loss"])
        assert math.isfinite(values["last_loss"])
        assert values["checkpoint"] == str(small_job.out(number) / f"step-{NUM_STEPS:06d}")


@pytest.mark.parametrize("number", [1, 2])
def test_a_resumed_run_is_bit_equal(small_job, tmp_path, number):
    check_resumed(small_job.out(number), yaml.safe_load(small_job.stage(number).read_text()), tmp_path)


def test_a_resumed_run_over_packs_is_bit_equal(small_job, outcomes, tmp_path):
    document = yaml.safe_load(small_job.stage(2).read_text()) | {"out": str(tmp_path / "whole")}
    document["data"] = {"unit": "pack", "unit_tokens": 100, "units": 2, "max_tokens": 100}
    assert run_onetoken("train", write_yaml(tmp_path / "whole.yaml", document)).status == 0
    lines = [json.loads(line) for line in (tmp_path / "whole/metrics.jsonl").read_text().splitlines()]
    assert max(line["num_examples"] for line in lines) > 2 * 2, "two packs must hold more than two each"
    check_resumed(tmp_path / "whole", document, tmp_path)


def check_resumed(whole, document, tmp_path):
    """Cut a run in the middle: what it ends with, once resumed, is what the whole run ended with."""
    cut = tmp_path / "cut"
    shutil.copytree(whole, cut)
    shutil.rmtree(cut / f"step-{NUM_STEPS:06d}")
    config = write_yaml(tmp_path / "cut.yaml", document | {"out": str(cut)})
    resumed = run_onetoken("train", config, "--resume", "--json")
    assert resumed.status == 0, resumed.err
    assert (cut / f"step-{CUT_AT:06d}").is_dir()
    for name in ("model.safetensors", "optimizer.safetensors"):
        ours, theirs = (out / f"step-{NUM_STEPS:06d}" / name for out in (cut, whole))
        assert ours.read_bytes() == theirs.read_bytes()
    early = whole / f"step-{CUT_AT:06d}/model.safetensors"
    assert early.read_bytes() != (whole / f"step-{NUM_STEPS:06d}/model.safetensors").read_bytes()


def test_resuming_a_complete_run_does_nothing(small_job):
    again = run_onetoken("train", small_job.stage(1), "--resume")
    assert again.status == 0
    assert f"{NUM_STEPS} steps" in again.out


def test_resuming_with_another_rate_names_it(small_job, tmp_path):
    document = yaml.safe_load(small_job.stage(1).read_text())
    document["optimizer"]["lr"] = 2e-3
    outcome = run_onetoken("train", write_yaml(tmp_path / "other.yaml", document), "--resume")
    assert (outcome.status, outcome.out) == (1, "")
    assert "optimizer.lr was 0.001 and is 0.002" in outcome.said


def ask(job: SmallJob, *options: object):
    return run_onetoken("generate", job.out(2), QUESTION, "--max-new-tokens", 4, "--json", *options)


def test_generate_answers_about_a_picture_and_a_clip(small_job):
    for option, name in (("--image", "0.png"), ("--video", "v_red.mp4")):
        outcome = ask(small_job, option, small_job.folder / "media" / name)
        assert outcome.status == 0, outcome.err
        assert outcome.values["question"] == QUESTION
        assert isinstance(outcome.values["answer"], str)


def test_generate_follows_a_moved_encoder(small_job, tmp_path):
    picture = small_job.folder / "media/0.png"
    before = ask(small_job, "--image", picture)
    moved = small_job.encoder.rename(tmp_path / "elsewhere")
    try:
        lost = ask(small_job, "--image", picture)
        found = ask(small_job, "--image", picture, "--encoder", moved)
    finally:
        moved.rename(small_job.encoder)
    assert (lost.status, lost.out) == (1, "")
    assert str(small_job.encoder) in lost.said
    assert found.values == before.values


def test_generate_refuses_another_encoder(small_job, tmp_path):
    other = write_encoder(tmp_path / "other", seed=1)
    outcome = ask(small_job, "--image", small_job.folder / "media/0.png", "--encoder", other)
    assert (outcome.status, outcome.out) == (1, "")
    assert "would make other features than those wanted: encoder.weights_sha256 is" in outcome.said


def test_inspect_tells_the_corpus(small_job, outcomes):
    outcome = run_onetoken("inspect", small_job.corpus, "--json")
    assert outcome.status == 0
    found = outcome.values
    assert {key: found[key] for key in TOTALS} == {key: outcomes["ingest"].values[key] for key in TOTALS}
    features = dict(outcomes["featurize"].values)
    assert features.pop("throughput")
    assert found["features"][features["spec"]] == features


def test_inspect_tells_a_shard_and_an_item(small_job):
    shards = sorted((small_job.corpus / "shards").glob("image*.tar"))
    assert shards
    listing = run_onetoken("inspect", shards[0], "--json").values
    assert listing["items"] == len(listing["keys"]) > 0
    item = run_onetoken("inspect", shards[0], listing["keys"][0], "--json").values
    assert len(item["members"]) == 2
    assert QUESTION in json.dumps(item["item"])


def test_inspect_tells_a_feature_item(small_job):
    shards = sorted((small_job.corpus / "features").glob("*/image*.tar"))
    key = run_onetoken("inspect", shards[0], "--json").values["keys"][0]
    item = run_onetoken("inspect", shards[0], key, "--json").values
    assert (item["codec"], item["shape"]) == ("int8", [5, 576, 16])
    assert len(item["mean_patch_norms"]) == 5
    assert all(norm > 0 for norm in item["mean_patch_norms"])
    words = run_onetoken("inspect", shards[0], key)
    assert "5 views of 576 x 16, checksums right" in words.out
    assert "medium 0: 1 frames of 5 views" in words.out


def test_inspect_tells_a_picture_and_a_clip(small_job):
    picture = run_onetoken("inspect", small_job.folder / "media/0.png", "--json").values
    assert (picture["kind"], picture["width_px"], picture["height_px"]) == ("image", 36, 30)
    assert len(picture["views"]) == 5
    clip = run_onetoken("inspect", small_job.folder / "media/v_red.mp4", "--json").values
    assert (clip["kind"], len(clip["times_s"])) == ("video", 3)


def test_inspect_names_damage(small_job, tmp_path):
    shard = sorted((small_job.corpus / "features").glob("*/image*.tar"))[0]
    key = run_onetoken("inspect", shard, "--json").values["keys"][0]
    data = bytearray(shard.read_bytes())
    data[4096] ^= 1
    broken = tmp_path / "broken.tar"
    broken.write_bytes(data)
    outcome = run_onetoken("inspect", broken, key)
    assert (outcome.status, outcome.out) == (1, "")
    assert "error: " in outcome.err
