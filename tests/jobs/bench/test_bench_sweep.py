"""`onetoken bench sweep`: what its pictures show, and, slowly, what a sweep makes of questions about them."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from small_job import run_onetoken
from transformers import AutoTokenizer

from jobs.bench import sweep
from jobs.bench.bounds import BOUNDS
from jobs.bench.grid_pictures import CELL_PX, COLORS, NUM_CELLS, PLACES, SIDE, draw_grid, invent_grid
from jobs.bench.grid_questions import INITS, NAMED, STANDOUT, VARIANTS, GridJob, write_grid_job
from jobs.demo.scenes import PAINT, Color, seed_random
from operators.clip import load_encoder
from operators.preprocess import CLIP_PROCESSOR, normalize_views
from schemas.sweep import Outcome, SourceScore

NUM_PICTURES = 40


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> GridJob:
    return write_grid_job(Path(tmp_path_factory.mktemp("grids")), NUM_PICTURES, num_steps=2)


def read_rows(job: GridJob, name: str) -> list[dict[str, Any]]:
    return json.loads((job.folder / f"{name}.json").read_text())


def look(pixels: np.ndarray, cell: int) -> tuple[Color, Color]:
    """The colors of a cell's corner and of its center."""
    row, column = divmod(cell, SIDE)
    top, left = row * CELL_PX, column * CELL_PX
    found = pixels[top + 3, left + 3], pixels[top + CELL_PX // 2, left + CELL_PX // 2]
    corner, center = (next(color for color in Color if PAINT[color] == tuple(at)) for at in found)
    return corner, center


def test_the_answers_are_what_the_pictures_show(job: GridJob) -> None:
    standout, named = read_rows(job, "standout"), read_rows(job, "named")
    assert len(standout) == len(named) == NUM_PICTURES
    asked = Counter()
    for first, second in zip(standout, named, strict=True):
        assert first["image"] == second["image"]
        with Image.open(job.folder / "pictures" / first["image"]) as image:
            pixels = np.asarray(image)
        cells = [look(pixels, cell) for cell in range(NUM_CELLS)]
        (white,) = (corner for corner, center in cells if center is Color.WHITE)
        assert [turn["value"] for turn in first["conversations"]] == [f"<image>\n{STANDOUT}", white]
        question, answer = (turn["value"] for turn in second["conversations"])
        (place,) = (one for one in PLACES if question == "<image>\n" + NAMED.format(place=one))
        assert answer == cells[PLACES.index(place)][0]
        asked[place] += 1
    assert len(asked) > NUM_CELLS / 2


def test_both_kinds_of_question_are_of_one_length(job: GridJob) -> None:
    tokenizer = AutoTokenizer.from_pretrained(job.folder / "llm")
    turns = [row["conversations"] for name in ("standout", "named") for row in read_rows(job, name)]
    lengths = {tuple(len(tokenizer.tokenize(f" {turn['value']}")) for turn in both) for both in turns}
    assert len(lengths) == 1, "units of like length would hold one kind alone"


def test_patches_of_a_random_encoder_keep_colors_marks_and_places_apart(job: GridJob) -> None:
    """Least squares reads all three off a patch of pictures that it has not seen."""
    random = seed_random(1, "probe")
    pictures = [invent_grid(random) for _ in range(90)]
    views = np.stack([np.asarray(draw_grid(picture)) for picture in pictures])
    pixels = torch.as_tensor(normalize_views(views, CLIP_PROCESSOR))
    patches = load_encoder(str(job.folder / "encoder")).encode(pixels).patches.flatten(0, 1)
    inputs = torch.cat([patches, torch.ones(len(patches), 1)], dim=1)
    facts = {
        "color": [COLORS.index(color) for picture in pictures for color in picture.colors],
        "standout": [int(cell == picture.standout) for picture in pictures for cell in range(NUM_CELLS)],
        "place": list(range(NUM_CELLS)) * len(pictures),
    }
    num_seen = 60 * NUM_CELLS
    for name, values in facts.items():
        wanted = torch.tensor(values)
        hot = torch.nn.functional.one_hot(wanted).float()
        weights = torch.linalg.lstsq(inputs[:num_seen], hot[:num_seen]).solution
        right = (inputs[num_seen:] @ weights).argmax(dim=1) == wanted[num_seen:]
        assert float(right.float().mean()) > 0.99, name


def test_the_base_trains_a_step_from_the_cache(job: GridJob) -> None:
    """The path of the slow test below, with one variant of each of its sweeps and nothing learned."""
    document = yaml.safe_load(job.sweep.read_text())
    assert document["variants"] == VARIANTS
    assert yaml.safe_load(job.inits.read_text())["variants"] == INITS
    document["variants"] = {"average": VARIANTS["average"], "copy": INITS["copy"]}
    short = job.folder / "short.yaml"
    short.write_text(yaml.safe_dump(document))
    assert run_onetoken("build", job.recipe, "--corpus", job.corpus).status == 0
    outcome = run_onetoken("sweep", short, "--json")
    assert outcome.status == 0, outcome.err
    assert len(outcome.values["rows"]) == 2
    for row in outcome.values["rows"]:
        sources = row["outcome"]["sources"]
        assert set(sources) == {"standout", "named"}
        assert sources["standout"]["asked"] == sources["named"]["asked"] > 0


def test_figures_are_differences_of_shares() -> None:
    def come_to(right: int) -> Outcome:
        score = SourceScore(examples=10, labels=20, loss=0.5, asked=10, right=right)
        return Outcome(
            steps=1, train_loss=0.5, loss=0.5, accuracy=right / 10, sources={"named": score}, vision_tokens=1,
            flops=1.0, predicted_bytes=1, measured_bytes=1, hours=0.1, checkpoint=None,
        )  # fmt: skip

    variants = dict(zip(VARIANTS, map(come_to, (10, 9, 6, 3)), strict=True))
    measured = sweep.compare(variants, dict(zip(INITS, map(come_to, (8, 7)), strict=True)))
    assert list(measured.ratios) == list(BOUNDS["sweep"])
    assert list(measured.ratios.values()) == pytest.approx([1.0, 0.1, 0.3, 0.3])
    assert measured.details["query_named"] == 0.6
    assert [measured.details[f"init_{init}_right"] for init in INITS] == [0.8, 0.7]


@pytest.mark.slow
def test_fusion_and_queries_find_what_an_average_loses(tmp_path: Path) -> None:
    """The order of the paper's tables 6 and 8, with margins."""
    measured = sweep.measure(tmp_path, lambda _: None)
    for key, bound in BOUNDS["sweep"].items():
        assert bound.holds(measured.ratios[key]), (key, measured)
    assert measured.details["query_standout"] > 0.9
    assert measured.details["query_named"] < 0.5
    assert min(measured.details[f"init_{init}_right"] for init in INITS) > measured.details["query_right"]
    table = run_onetoken("sweep", GridJob(tmp_path).sweep)
    assert table.status == 0, "all is finished, and the table is told again"
    assert [line.split("  ")[0] for line in table.out.splitlines()[1:5]] == list(VARIANTS)
