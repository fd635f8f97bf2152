"""Steps, resumption and what stops a run."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
import torch
from tiny_training import (
    IDENTITY,
    WIDTH,
    CaptionSteps,
    CountedSteps,
    color_example,
    save_language_model,
    tiny_config,
    tiny_run,
)

from operators.batch import MediumFeatures
from operators.collate import collate_training
from pipelines.train.assembly import assemble, restore
from pipelines.train.checkpoint import latest_checkpoint, open_checkpoint
from pipelines.train.gradients import accumulate_gradients
from pipelines.train.loop import StepSource, TrainingRun, train
from pipelines.train.metrics import StepReport
from pipelines.train.tensor_file import read_tensors
from schemas.errors import DivergedError, WorkError
from schemas.training import TrainConfig


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_language_model(tmp_path_factory.mktemp("llm"))


def losses_of(run: TrainingRun, resume: Path | None = None) -> list[StepReport]:
    reports: list[StepReport] = []
    train(run, None if resume is None else open_checkpoint(resume), reports.append)
    return reports


def resumed_run(config: TrainConfig, folder: Path) -> TrainingRun:
    source = (CountedSteps if config.stage == 2 else CaptionSteps)(config.data.batch, config.data.micro_batch)
    assembly = restore(open_checkpoint(folder), to_train=True)
    steps = config.run.steps or 1
    return TrainingRun(assembly=assembly, config=config, source=source, identity=IDENTITY, num_steps=steps)


def assert_same_tensors(one: Path, other: Path, at_least: int) -> None:
    for name in ("model.safetensors", "optimizer.safetensors"):
        left, right = read_tensors(one / name), read_tensors(other / name)
        assert left.keys() == right.keys()
        assert len(left) >= at_least
        assert all(torch.equal(left[key], right[key]) for key in left)


@pytest.mark.parametrize("stage", [1, 2])
def test_a_resumed_run_is_bit_equal(llm: Path, tmp_path: Path, stage: int) -> None:
    straight_config = tiny_config(llm, tmp_path / "straight", stage)
    straight = losses_of(tiny_run(straight_config))

    config = tiny_config(llm, tmp_path / "cut", stage)
    run = tiny_run(config)
    steps = iter(run.source)

    class Dies(type(run.source)):
        def __iter__(self):
            for count, step in enumerate(steps):
                if count == 6:
                    raise KeyboardInterrupt
                yield step

    dying = replace(run, source=_borrow_state(Dies(4, 2), run.source))
    first: list[StepReport] = []
    with pytest.raises(KeyboardInterrupt):
        train(dying, None, first.append)
    folder = latest_checkpoint(tmp_path / "cut")
    assert folder is not None
    assert folder.name == "step-000004"
    second = losses_of(resumed_run(config, folder), folder)

    assert [r.loss for r in first[:4]] + [r.loss for r in second] == [r.loss for r in straight]
    assert [r.step for r in second] == [5, 6, 7, 8]
    assert [r.epoch for r in second] == [r.epoch for r in straight[4:]]
    assert [r.rates for r in second] == [r.rates for r in straight[4:]]
    assert_same_tensors(
        tmp_path / "cut/step-000008", tmp_path / "straight/step-000008", at_least=20 if stage == 2 else 12
    )
    lines = [json.loads(line) for line in (tmp_path / "cut/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 9))
    assert [line["loss"] for line in lines] == [r.loss for r in straight]


def _borrow_state(dying: CountedSteps, real: StepSource) -> CountedSteps:
    dying.state_dict = real.state_dict
    return dying


IN_BACKWARD = {"kind": "adafactor", "in_backward": True}
NUM_DEATHS = 4


def draw_deaths(seed: int) -> list[tuple[str, int]]:
    """Some of each kind, at steps that follow one another: what was killed at a step has not saved it."""
    random = Random(seed)
    steps = sorted(random.sample(range(1, 9), NUM_DEATHS))
    return [("sync", random.randint(1, 8)) if random.random() < 0.4 else ("step", step) for step in steps]


SLOWLY = [pytest.param(draw_deaths(seed), kind, marks=pytest.mark.slow) for seed, kind in
          [(0, {}), (1, {}), (2, IN_BACKWARD), (3, IN_BACKWARD)]]  # fmt: skip


@pytest.mark.parametrize(
    ("deaths", "optimizer"), [([("step", 1), ("sync", 3), ("step", 5), ("step", 8)], IN_BACKWARD), *SLOWLY]
)
def test_a_run_that_is_killed_again_and_again_ends_as_if_undisturbed(
    llm: Path, tmp_path: Path, deaths: list[tuple[str, int]], optimizer: dict[str, object]
) -> None:
    """By SIGKILL: before the first checkpoint, while one is written or on its way, in the last step."""
    sections = {"run": {"save_every": 2}, "data": {"micro_batch": 4}, "optimizer": optimizer}
    straight = losses_of(tiny_run(tiny_config(llm, tmp_path / "straight", **sections)))
    out, here = tmp_path / "killed", Path(__file__).parent
    paths = os.pathsep.join([os.getcwd(), str(here), str(here.parent)])
    command = [sys.executable, here / "mortal_run.py", llm, out, json.dumps(sections), json.dumps(deaths)]
    done = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    ends = json.loads(done.stdout)
    assert [status for status, _ in ends] == [-signal.SIGKILL] * len(deaths) + [0], (ends, done.stderr)
    left = [name for _, name in ends]
    assert left == sorted(left)
    assert_same_tensors(out / "step-000008", tmp_path / "straight/step-000008", at_least=20)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["loss"] for line in lines] == [report.loss for report in straight]


@pytest.mark.parametrize("optimizer", [{}, IN_BACKWARD], ids=["adamw", "adafactor in backward"])
def test_a_run_that_dies_at_any_step_ends_as_if_it_had_not(
    llm: Path, tmp_path: Path, optimizer: dict[str, object]
) -> None:
    """Before the first checkpoint, right after one, between two, and in the last step."""

    def configure(name: str) -> TrainConfig:
        run, data = {"steps": 6, "save_every": 2, "keep_last": None}, {"batch": 2, "micro_batch": 2}
        return tiny_config(llm, tmp_path / name, run=run, data=data, optimizer=optimizer)

    train(tiny_run(configure("straight")))
    for last in (1, 2, 3, 5):
        config, taken = configure(f"dies-{last}"), []

        def die(report: StepReport, last: int = last, taken: list[int] = taken) -> None:
            taken.append(report.step)
            if report.step == last:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            train(tiny_run(config), None, die)
        assert taken[-1] == last
        folder = latest_checkpoint(Path(config.out))
        assert (folder is None) == (last <= 2), "a step is told before it is saved"
        run = resumed_run(config, folder) if folder else tiny_run(config)
        train(run, open_checkpoint(folder) if folder else None)
        ends = (Path(name) / "step-000006" for name in (config.out, tmp_path / "straight"))
        assert_same_tensors(*ends, at_least=20)


def test_a_run_that_is_asked_to_stop_saves_and_goes_on_to_the_bit(llm: Path, tmp_path: Path) -> None:
    train(tiny_run(tiny_config(llm, tmp_path / "straight")))
    config = tiny_config(llm, tmp_path / "stopped", run={"save_every": 100})
    reports: list[StepReport] = []
    asked = replace(tiny_run(config), shall_stop=lambda: len(reports) == 2)
    folder = train(asked, None, reports.append)
    assert folder.name == "step-000003"
    again = train(resumed_run(config, folder), open_checkpoint(folder))
    assert_same_tensors(again, tmp_path / "straight/step-000008", at_least=20)


def test_a_complete_run_is_left_as_it_is(llm: Path, tmp_path: Path) -> None:
    config = tiny_config(llm, tmp_path, run={"steps": 1})
    folder = train(tiny_run(config))
    assert folder == tmp_path / "step-000001"
    assert train(resumed_run(config, folder), open_checkpoint(folder)) == folder


@pytest.mark.parametrize("stage", [1, 2])
def test_micro_batches_weigh_tokens_not_examples(llm: Path, tmp_path: Path, stage: int) -> None:
    """Answers of different lengths: the gradient is that of one batch, whatever the cut."""
    assembly = assemble(tiny_config(llm, tmp_path, stage), WIDTH)
    examples = [color_example(index) for index in range(4)]
    lengths = {len(example.turns[-1].text) for example in examples}
    assert len(lengths) > 1
    results = []
    for cut in ([[0, 1, 2, 3]], [[0], [1, 2, 3]], [[3], [2], [], [1], [0]]):
        assembly.model.zero_grad()
        batches = [[examples[index] for index in part] for part in cut]
        gradients = accumulate_gradients(assembly, batches, torch.float32)
        flat = [w.grad.flatten() for w in assembly.model.parameters() if w.grad is not None]
        results.append((gradients.loss, gradients.num_labels, torch.cat(flat)))
    reference = assembly.model(collate_training(examples, assembly.prompter))
    assert results[0][0] == pytest.approx(reference.total.item() / reference.num_labels, rel=1e-6)
    for loss, num_labels, gradient in results:
        assert loss == pytest.approx(results[0][0], rel=1e-5)
        assert num_labels == reference.num_labels
        assert float(gradient.norm()) > 0
        torch.testing.assert_close(gradient, results[0][2], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("stage", "dtype"), [(1, "float32"), (2, "float32"), (1, "bfloat16"), (2, "bfloat16")]
)
def test_losses_fall(tmp_path: Path, stage: int, dtype: str) -> None:
    llm = save_language_model(tmp_path / "llm", head_scale=10.0 if stage == 1 else 1.0)
    run = {"steps": 30, "dtype": dtype, "save_every": 100}
    config = tiny_config(llm, tmp_path, stage, run=run)
    losses = [report.loss for report in losses_of(tiny_run(config))]
    assert losses[0] > 5.0
    assert losses[-1] < losses[0] - 1.0


def test_reports_count_examples_and_tokens(llm: Path, tmp_path: Path) -> None:
    report = losses_of(tiny_run(tiny_config(llm, tmp_path, run={"steps": 1})))[0]
    # <|user|> medium \nColor? </s> <|assistant|> ANSWER </s>
    answers = [len(word) + 1 for word in ("red", "blue", "tan", "olive")]
    assert report.num_examples == 4
    assert report.num_labels == sum(answers)
    assert report.num_tokens == sum(answers) + 4 * (len("\nColor?") + 4)
    assert 0 <= report.data_wait_share <= 1
    assert report.rates == {"projector": 3e-3, "rest": 3e-3}


class Poisoned(CountedSteps):
    """Example 5 holds a number that is none."""

    def example(self, index: int):
        example = color_example(index)
        if index != 5:
            return example
        return replace(example, media=(MediumFeatures(example.media[0].patches * float("nan")),))


def test_a_loss_that_is_no_number_stops_the_run_and_names_examples(llm: Path, tmp_path: Path) -> None:
    run = tiny_run(tiny_config(llm, tmp_path, run={"save_every": 1}), Poisoned(4, 2))
    with pytest.raises(DivergedError, match=r"examples e4, e5;"):
        train(run)
    assert latest_checkpoint(tmp_path) == tmp_path / "step-000001"


class Short(CountedSteps):
    """Ends after one step."""

    def __iter__(self):
        return iter([next(super().__iter__())])


def test_a_source_that_ends_early_is_an_error(llm: Path, tmp_path: Path) -> None:
    with pytest.raises(WorkError, match="ended after 1 of 8 steps"):
        train(tiny_run(tiny_config(llm, tmp_path), Short(4, 2)))


def test_the_outer_random_state_does_not_matter(llm: Path, tmp_path: Path) -> None:
    first, second = (
        [r.loss for r in losses_of(tiny_run(tiny_config(llm, tmp_path / name, run={"steps": 2})))]
        for name in ("a", "b")
        if torch.manual_seed(ord(name)) is not None
    )
    assert first == second
