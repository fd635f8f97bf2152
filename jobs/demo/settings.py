"""The demo's recipe and training configurations: what a user would write, for models that fit a laptop."""

from pathlib import Path

Document = dict[str, object]


def demo_recipe(out: Path) -> Document:
    """The recipe over the four rendered sets."""
    data = out / "data"
    return {
        "name": "demo",
        "sources": [
            {
                "name": "captions",
                "format": "llava",
                "annotations": str(data / "llava_pretrain/blip_laion_cc_sbu_558k.json"),
                "media_root": str(data / "llava_pretrain/images"),
            },
            {
                "name": "instructions",
                "format": "llava",
                "annotations": str(data / "llava_instruct/llava_v1_5_mix665k.json"),
                "media_root": str(data / "llava_instruct"),
            },
            {
                "name": "videos",
                "format": "video_chatgpt",
                "annotations": str(data / "video_chatgpt/VideoInstruct100K.json"),
                "media_root": str(data / "video_chatgpt/videos"),
            },
            {
                "name": "onevision",
                "format": "onevision",
                "annotations": str(data / "onevision/*/*.parquet"),
            },
        ],
        "views": {"image": "hd4", "aspect": "pad", "video": {"fps": 1, "max_frames": 16}},
        "encoder": {"model": str(out / "encoder"), "layer": -2, "dtype": "float32", "batch_size": 16},
        "codec": "int8",
        "shards": {"max_bytes": "8MiB", "max_views": 128},
    }


def stage1_config(out: Path) -> Document:
    """Stage 1: the projector learns captions from all patches of the whole picture."""
    return {
        "corpus": str(out / "corpus"),
        "stage": 1,
        "out": str(out / "runs/stage1"),
        "model": {"llm": str(out / "llm")},
        "data": {"sources": {"captions": 1.0}, "batch": 16, "micro_batch": 16},
        "optimizer": {"lr": 1.2e-3},
        "run": {"steps": 16, "dtype": "float32", "device": "cpu", "threads": 2, "log_every": 1},
    }


def stage2_config(out: Path) -> Document:
    """Stage 2: everything but the encoder learns to answer, from one token a picture."""
    return {
        "corpus": str(out / "corpus"),
        "stage": 2,
        "out": str(out / "runs/stage2"),
        "model": {
            "llm": str(out / "llm"),
            "grid": 1,
            "prefusion": {"layers": 1, "init": "zero"},
            "start_from": str(out / "runs/stage1"),
        },
        "data": {
            "sources": {"instructions": 1.0, "videos": 1.0, "onevision": 1.0},
            "batch": 16,
            "micro_batch": 16,
            "frames": {"uniform": 3},
        },
        "optimizer": {"lr": 1.2e-3, "projector_lr": 1.2e-3, "warmup_share": 0.05},
        "run": {
            "steps": 300,
            "dtype": "float32",
            "device": "cpu",
            "threads": 2,
            "log_every": 1,
            "save_every": 50,
        },
    }
