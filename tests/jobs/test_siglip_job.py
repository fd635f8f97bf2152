"""A job from end to end over an encoder without a class token: built, inspected, audited, trained, asked."""

from pathlib import Path

import torch
import yaml
from small_job import QUESTION, run_onetoken, write_job, write_yaml
from transformers import SiglipVisionConfig, SiglipVisionModel
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from transformers.utils import logging as transformers_logging

SIZE_PX = 42


def write_siglip(folder: Path) -> Path:
    transformers_logging.disable_progress_bar()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        config = SiglipVisionConfig(
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=SIZE_PX,
            patch_size=14,
        )
        SiglipVisionModel(config).save_pretrained(folder)
    SiglipImageProcessorPil(size={"height": SIZE_PX, "width": SIZE_PX}).save_pretrained(folder)
    return folder


def test_a_job_over_siglip(tmp_path: Path) -> None:
    job = write_job(tmp_path)
    encoder = {"model": str(write_siglip(tmp_path / "siglip")), "dtype": "float32", "batch_size": 4}
    write_yaml(job.recipe, yaml.safe_load(job.recipe.read_text()) | {"encoder": encoder})
    built = run_onetoken("build", job.recipe, "--corpus", job.corpus, "--json")
    assert built.status == 0, built.err
    assert run_onetoken("verify", "--corpus", job.corpus).status == 0
    audited = run_onetoken("audit", "--corpus", job.corpus, "--views", 3)
    assert audited.status == 0, audited.err
    tar = next(job.corpus.glob("features/*/image-*.tar"))
    key = run_onetoken("inspect", tar, "--json").values["keys"][0]
    inspected = run_onetoken("inspect", tar, key)
    assert inspected.status == 0, inspected.err
    assert "views of 9 x 16, no class rows, checksums right" in inspected.out
    for stage in (1, 2):
        document = yaml.safe_load(job.stage(stage).read_text())
        document["run"] |= {"steps": 1, "save_every": 1}
        trained = run_onetoken("train", write_yaml(job.stage(stage), document), "--json")
        assert trained.status == 0, trained.err
    picture = tmp_path / "media/0.png"
    asked = run_onetoken("generate", job.out(2), "--image", picture, QUESTION, "--json")
    assert asked.status == 0, asked.err
    document["model"] |= {"reducer": "prumerge"}
    document["out"] = str(tmp_path / "refused")
    refused = run_onetoken("train", write_yaml(tmp_path / "refused.yaml", document))
    assert refused.status == 2
    assert "asks what the class token looks at" in refused.said
