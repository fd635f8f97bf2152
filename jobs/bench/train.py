"""`onetoken bench train`: what the trainer adds to the modules that it calls, on one core.

    video_batched_vs_loop   32 frames at once against one by one, forward and backward; Vicuna's shape with
                            every side a sixteenth (width 256, 36 patches of 64, 8 text tokens)
    loop_overhead           a step of ours, from examples to gradients, against the same modules called bare
    data_wait               of steps that read a cache of true size, 576 x 1024 a view
    plan_error              what `onetoken plan` predicts against torch's profiler, on small models

Times are CPU time, medians, sides taking turns; waiting is wall time. With all 576 patches of a frame a core
is busy with one frame already, and batching gains a few per cent only: what it saves is what calls cost.
"""

import math
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Final

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from jobs.bench.feature_corpus import FeatureCorpus
from jobs.bench.feature_statistics import NUM_PATCHES, WIDTH
from jobs.bench.result import Measured, Say
from jobs.bench.train_corpus import ANSWER, QUESTION, write_corpus, write_language_model
from jobs.bench.train_memory import record_peak
from jobs.bench.train_sides import call_modules, loop_over_frames
from jobs.demo.language_model import LanguageModelShape
from operators.batch import MediumFeatures, TrainingExample
from operators.collate import collate_training
from pipelines.stream.stream import FeatureStream
from pipelines.train.assembly import Assembly, assemble
from pipelines.train.gradients import accumulate_gradients
from pipelines.train.loop import TrainingRun, train
from pipelines.train.metrics import StepReport
from pipelines.train.model import build_model
from pipelines.train.predict import predict
from pipelines.train.shape import ModelShape
from pipelines.train.step_shape import StepShape, make_batch
from schemas.checkpoint import RunIdentity
from schemas.configuration import build
from schemas.record import Turn
from schemas.training import TrainConfig

NUM_FRAMES: Final = 32
NUM_ROUNDS: Final = 5
NUM_STEPS: Final = 8
MICRO_BATCH: Final = 8
A_SIXTEENTH: Final = LlamaConfig(
    vocab_size=2000, hidden_size=256, intermediate_size=688, num_hidden_layers=4, num_attention_heads=8
)
SMALL_LLM: Final = LanguageModelShape(width=256, num_layers=4, num_heads=8, mlp_width=688)
PLANNED: Final[tuple[dict[str, object], ...]] = (
    {
        "optimizer": {"kind": "adafactor", "weights": "bfloat16", "in_backward": True},
        "memory": {"checkpoint_layers": True},
        "data": {"batch": 2, "micro_batch": 2},
    },
    {"data": {"batch": 4, "micro_batch": 2}},
)


def measure(folder: Path, say: Say, scale: float = 1.0) -> Measured:
    """See `Measure`."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        batched_s, looped_s = measure_video(say, max(2, round(NUM_FRAMES * scale)))
        assembly = make_assembly(folder, scale)
        ours_s, bare_s = measure_overhead(assembly, say, scale)
        waited = measure_wait(folder, say, scale)
        errors = [measure_plan(settings, say) for settings in PLANNED]
    finally:
        torch.set_num_threads(before)
    ratios = {
        "video_batched_vs_loop": looped_s / batched_s,
        "loop_overhead": ours_s / bare_s - 1,
        "data_wait": waited,
        "plan_error": max(errors),
    }
    details = {"batched_s": batched_s, "looped_s": looped_s, "step_s": ours_s, "bare_s": bare_s}
    return Measured(ratios=ratios, details=details)


def measure_video(say: Say, num_frames: int) -> tuple[float, float]:
    """Seconds of forward and backward, all frames at once and one by one."""
    say(f"a clip of {num_frames} frames")
    shape = ModelShape(encoder_width=64, prefusion_init="random")
    model = build_model(LlamaForCausalLM(A_SIXTEENTH), shape, 2).train()
    clip = StepShape(
        num_examples=1, num_tokens=8, num_labels=4, num_frames=num_frames, num_patches=36, encoder_width=64
    )
    batch = make_batch(clip)
    return take_turns(
        lambda: _descend(model, model(batch).total), lambda: _descend(model, loop_over_frames(model, batch))
    )


def measure_overhead(assembly: Assembly, say: Say, scale: float) -> tuple[float, float]:
    """Seconds of a step's gradients, from examples on, and of bare calls on the same tensors."""
    say("a step against bare calls")
    model = assembly.model.train()
    generator = torch.Generator().manual_seed(0)
    turns = (Turn("human", f"<image>\n{QUESTION}"), Turn("gpt", ANSWER))
    num_patches = max(2, round(math.isqrt(NUM_PATCHES) * scale)) ** 2
    examples = [
        TrainingExample(
            f"e{number}",
            "noise",
            turns,
            (MediumFeatures(torch.randn(1, 1, num_patches, WIDTH, generator=generator).half()),),
        )
        for number in range(MICRO_BATCH)
    ]
    batch = collate_training(examples, assembly.prompter)

    def ours() -> None:
        accumulate_gradients(assembly, [examples], torch.float32)
        model.zero_grad(set_to_none=True)

    return take_turns(ours, lambda: _descend(model, call_modules(model, batch)))


def measure_wait(folder: Path, say: Say, scale: float) -> float:
    """Share of steps, but for the first, that passed waiting for examples."""
    num_steps = max(3, round(NUM_STEPS * scale))
    say(f"{num_steps} steps from a cache")
    corpus = write_corpus(folder / "corpus", MICRO_BATCH * num_steps)
    reports: list[StepReport] = []
    config = make_config(folder, num_steps)
    train(open_run(corpus, config), on_step=reports.append)
    timed = reports[1:]
    return sum(report.data_wait_s for report in timed) / sum(report.step_s for report in timed)


def open_run(corpus: FeatureCorpus, config: TrainConfig) -> TrainingRun:
    """A run over the made-up corpus."""
    stream = FeatureStream(corpus.storage, corpus.manifest, corpus.spec, config.data, seed=0)
    spec = stream.reader.spec
    return TrainingRun(
        assembly=assemble(config, WIDTH),
        config=config,
        source=stream,
        identity=RunIdentity(manifest_sha256=corpus.manifest.digest, spec=spec, encoder="none"),
        num_steps=config.run.steps or 1,
    )


def measure_plan(settings: dict[str, object], say: Say) -> float:
    """How far the predicted peak is from the recorded one."""
    say("a predicted peak against a recorded one")
    model = {"prefusion": {"layers": 2, "init": "random"}}
    value = {"corpus": "none", "out": "none", "stage": 2, "model": model, **settings}
    config = build(value, TrainConfig, "bench")
    small = LlamaConfig(
        vocab_size=2000, hidden_size=256, intermediate_size=704, num_hidden_layers=3, num_attention_heads=4
    )
    step = StepShape(num_examples=2, num_tokens=60, num_labels=30, num_patches=144)
    return abs(predict(small, config, step).peak / record_peak(small, config, step) - 1)


def make_assembly(folder: Path, scale: float) -> Assembly:
    """A small model that reads features of true width."""
    width = 256 if scale >= 1 else 64
    shape = SMALL_LLM if scale >= 1 else LanguageModelShape(width=width, mlp_width=2 * width)
    write_language_model(folder / "llm", shape)
    return assemble(make_config(folder, 1), WIDTH)


def make_config(folder: Path, num_steps: int) -> TrainConfig:
    """Stage 2 in float32, a micro-batch a step."""
    value = {
        "corpus": str(folder / "corpus"),
        "stage": 2,
        "out": str(folder / f"run-{time.monotonic_ns()}"),
        "model": {"llm": str(folder / "llm"), "prefusion": {"init": "random"}},
        "data": {"batch": MICRO_BATCH, "micro_batch": MICRO_BATCH},
        "run": {"steps": num_steps, "dtype": "float32", "device": "cpu", "threads": 1},
    }
    return build(value, TrainConfig, "bench")


def take_turns(first: Callable[[], object], second: Callable[[], object]) -> tuple[float, float]:
    """Median CPU seconds of both, after one round that does not count."""
    times = [[_count_cpu_s(act) for act in (first, second)] for _ in range(NUM_ROUNDS + 1)][1:]
    return median(one for one, _ in times), median(other for _, other in times)


def _descend(model: torch.nn.Module, loss: Tensor) -> None:
    loss.backward()  # pyright: ignore[reportUnknownMemberType]
    model.zero_grad(set_to_none=True)


def _count_cpu_s(act: Callable[[], object]) -> float:
    started_s = time.process_time()
    act()
    return time.process_time() - started_s
