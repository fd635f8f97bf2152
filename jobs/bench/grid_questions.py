"""Everything that a sweep over questions about grids needs, as a user would write it.

Half of the questions ask for the color of the cell that stands out, half for that of a cell that they name:
one of each about every picture. Both have as many tokens, so that units of like length hold both. Encoder (a
patch is a cell) and language model are random, seeded and small. What is swept is the paper's ablation:
pre-fusion with a query, with an average, and each of these alone; and how pre-fusion begins, which was never
published.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import yaml

from jobs.bench.grid_pictures import CELL_PX, COLORS, NUM_CELLS, PLACES, GridPicture, draw_grid, invent_grid
from jobs.demo.encoder import write_demo_encoder
from jobs.demo.language_model import LanguageModelShape, save_language_model
from jobs.demo.layouts import LlavaRecord, talk, write_json
from jobs.demo.media import encode_image, write_file
from jobs.demo.scenes import seed_random
from jobs.demo.tokenizer import BEGIN, END, PAD, train_tokenizer

STANDOUT: Final = "Which color stands out here?"
NAMED: Final = "Which color is at {place}?"
VARIANTS: Final[dict[str, dict[str, object]]] = {
    "fusion and query": {},
    "fusion and average": {"model.reducer": {"name": "average", "tokens": 1}},
    "query": {"model.prefusion.layers": 0},
    "average": {"model.prefusion.layers": 0, "model.reducer": {"name": "average", "tokens": 1}},
}
"""In the order in which they should answer, the best first."""
INITS: Final[dict[str, dict[str, object]]] = {
    "copy": {"model.prefusion.init": "copy"},
    "random": {"model.prefusion.init": "random"},
}
"""Other beginnings of the first variant, which begins with `zero`."""
SHAPE: Final = LanguageModelShape(width=64, mlp_width=128)
ENCODER_WIDTH: Final = 64
PLACE_SPREAD: Final = 3.0
"""About as far as the colors of patches lie apart in this encoder."""
NUM_SHARDS: Final = 10
"""At least; a tree of shards doubles."""


@dataclass(frozen=True, slots=True)
class GridJob:
    """Where everything lies."""

    folder: Path

    @property
    def recipe(self) -> Path:
        """Of the corpus."""
        return self.folder / "recipe.yaml"

    @property
    def corpus(self) -> Path:
        """That the recipe makes."""
        return self.folder / "corpus"

    @property
    def sweep(self) -> Path:
        """Over the corpus."""
        return self.folder / "sweep.yaml"

    @property
    def inits(self) -> Path:
        """The sweep over other beginnings of pre-fusion."""
        return self.folder / "inits.yaml"


def write_grid_job(folder: Path, num_pictures: int, num_steps: int, seed: int = 0) -> GridJob:
    """Pictures, questions, models and configurations; the same arguments give the same bytes."""
    job = GridJob(folder)
    random = seed_random(seed, "grids")
    pictures = [invent_grid(random) for _ in range(num_pictures)]
    named = [random.randrange(NUM_CELLS) for _ in pictures]
    for number, picture in enumerate(pictures):
        write_file(folder / "pictures" / _name(number), encode_image(draw_grid(picture), "PNG"))
    write_json(folder / "standout.json", [_ask(n, STANDOUT, p, p.standout) for n, p in enumerate(pictures)])
    write_json(
        folder / "named.json",
        [
            _ask(number, NAMED.format(place=PLACES[cell]), picture, cell)
            for number, (picture, cell) in enumerate(zip(pictures, named, strict=True))
        ],
    )
    _write_models(folder, seed)
    _write_yaml(job.recipe, _recipe(folder, max(1, num_pictures // NUM_SHARDS)))
    _write_yaml(folder / "base.yaml", _base(job, num_steps, seed))
    _write_yaml(job.sweep, _sweep(folder, "sweep", VARIANTS))
    _write_yaml(job.inits, _sweep(folder, "inits", INITS))
    return job


def _name(number: int) -> str:
    return f"{number:05d}.png"


def _ask(number: int, question: str, picture: GridPicture, cell: int) -> LlavaRecord:
    turns = talk((f"<image>\n{question}", picture.colors[cell]))
    return LlavaRecord(id=number, image=_name(number), conversations=turns)


def _write_models(folder: Path, seed: int) -> None:
    write_demo_encoder(
        folder / "encoder",
        seed=seed,
        width=ENCODER_WIDTH,
        num_layers=2,
        patch_px=CELL_PX,
        place_spread=PLACE_SPREAD,
    )
    questions = [STANDOUT, *(NAMED.format(place=place) for place in PLACES)]
    prompts = [f"USER: \n{question} ASSISTANT: {color}" for question in questions for color in COLORS]
    vocabulary: dict[str, int] = train_tokenizer(prompts, folder / "llm").get_vocab()
    save_language_model(
        folder / "llm",
        vocabulary_size=len(vocabulary),
        bos_id=vocabulary[BEGIN],
        eos_id=vocabulary[END],
        pad_id=vocabulary[PAD],
        shape=SHAPE,
        seed=seed,
    )


def _recipe(folder: Path, max_views: int) -> dict[str, object]:
    sources = [
        {
            "name": name,
            "format": "llava",
            "annotations": str(folder / f"{name}.json"),
            "media_root": str(folder / "pictures"),
        }
        for name in ("standout", "named")
    ]
    return {
        "name": "grids",
        "sources": sources,
        "views": {"image": "global"},
        "encoder": {"model": str(folder / "encoder"), "dtype": "float32"},
        "shards": {"max_views": max_views},
    }


def _base(job: GridJob, num_steps: int, seed: int) -> dict[str, object]:
    return {
        "corpus": str(job.corpus),
        "stage": 2,
        "out": str(job.folder / "run"),
        "model": {"llm": str(job.folder / "llm"), "prefusion": {"layers": 2}},
        "data": {"batch": 32, "micro_batch": 32, "max_tokens": 64, "threads": 1},
        "optimizer": {"lr": 2e-3, "projector_lr": 2e-3, "warmup_share": 0.1},
        "run": {
            "steps": num_steps,
            "dtype": "float32",
            "device": "cpu",
            "log_every": 20,
            "save_every": 100,
            "seed": seed,
        },
    }


def _sweep(folder: Path, name: str, variants: dict[str, dict[str, object]]) -> dict[str, object]:
    return {
        "base": str(folder / "base.yaml"),
        "variants": variants,
        "held_out": 0.1,
        "keep_checkpoint": False,
        "out": str(folder / name),
    }


def _write_yaml(path: Path, document: dict[str, object]) -> None:
    path.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
