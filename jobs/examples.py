"""What a person types: an example of every verb, shown at the end of its help; of those of groups, too."""

from typing import Final

import typer
from typer.models import TyperInfo

EXAMPLES: Final = {
    "demo": ("onetoken demo --out onetoken-demo",),
    "doctor": ("onetoken doctor --corpus s3://corpora/first",),
    "plan": (
        "onetoken plan recipe.yaml",
        "onetoken plan recipe.yaml --corpus corpus --events build.jsonl",
        "onetoken plan stage2.yaml --workers 8",
    ),
    "ingest": ("onetoken ingest recipe.yaml --corpus corpus",),
    "shard": ("onetoken shard recipe.yaml --corpus corpus --engine processes --workers 8",),
    "featurize": ("onetoken featurize recipe.yaml --corpus corpus --engine ray --ray-address auto",),
    "build": ("onetoken build recipe.yaml --corpus corpus --engine processes",),
    "retry": ("onetoken retry --corpus corpus",),
    "verify": ("onetoken verify --corpus corpus --engine processes",),
    "audit": ("onetoken audit --corpus corpus --views 256",),
    "report": ("onetoken report --corpus corpus --card corpus/README.md",),
    "diff": ("onetoken diff corpus other-corpus", "onetoken diff corpus@0a1b2c3d corpus"),
    "gc": ("onetoken gc --corpus corpus --dry-run",),
    "lengths": ("onetoken lengths stage2.yaml --engine ray --ray-address auto",),
    "train": ("onetoken train stage2.yaml --resume",),
    "sweep": ("onetoken sweep sweep.yaml --engine ray --ray-address auto",),
    "generate": ('onetoken generate runs/stage2 --image cat.jpg "What is the cat doing?"',),
    "evaluate": ("onetoken evaluate runs/stage2 --corpus corpus",),
    "import": ("onetoken import llava.yaml",),
    "export": ("onetoken export runs/stage2 exported",),
    "inspect": (
        "onetoken inspect corpus",
        "onetoken inspect clip.mp4 --out views",
        "onetoken inspect --config stage2.yaml --step 120 --rank 3 --ranks 8",
    ),
    "analyze": ("onetoken analyze flops --llm vicuna-7b",),
    "analyze attention": ("onetoken analyze attention runs/stage2 --out attention",),
    "analyze flops": ("onetoken analyze flops --llm vicuna-7b --text 43",),
    "analyze latency": ("onetoken analyze latency", "onetoken analyze latency runs/stage2 --rounds 9"),
    "analyze live": ("onetoken analyze live stage2.yaml",),
    "analyze memory": ("onetoken analyze memory --llm llama-3.1-8b",),
    "analyze roofline": ("onetoken analyze roofline --json",),
    "bench": ("onetoken bench ingest --scale 0.01",),
}


def show_examples(app: typer.Typer, group: str = "") -> None:
    """Put the examples below the help of each verb and group."""
    for info in (*app.registered_commands, *app.registered_groups):
        shown = EXAMPLES.get(f"{group} {info.name}".strip(), ())
        if shown:
            info.epilog = "\n\n".join(["Example:" if len(shown) == 1 else "Examples:", *shown])
        if isinstance(info, TyperInfo) and info.typer_instance:
            show_examples(info.typer_instance, str(info.name))
