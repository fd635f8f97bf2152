"""A language model of a few thousand weights on disk, and a task that it can learn: name the color."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from tiny_spec import tiny_spec
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from operators.batch import MediumFeatures, TrainingExample
from pipelines.train.assembly import assemble
from pipelines.train.loop import TrainingRun
from schemas.checkpoint import RunIdentity
from schemas.configuration import build
from schemas.record import Turn
from schemas.training import TrainConfig

WIDTH = 16
COLORS = ("red", "blue", "tan", "olive")
IDENTITY = RunIdentity(manifest_sha256="m" * 64, spec=tiny_spec(576, WIDTH), encoder="tiny")
CHATML = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPECIALS = ["<s>", "</s>", "<|user|>", "<|assistant|>"]


def tiny_tokenizer(template: str | None = CHATML) -> PreTrainedTokenizerFast:
    """One token a byte."""
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    size = len(SPECIALS) + len(alphabet)
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=SPECIALS, initial_alphabet=alphabet)
    backend.train_from_iterator([], trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")
    tokenizer.chat_template = template
    return tokenizer


def save_language_model(
    folder: Path, *, tied: bool = False, template: str | None = CHATML, head_scale: float = 1.0
) -> Path:
    """A random Llama with its tokenizer; with a large head, what it reads decides what it says."""
    tokenizer = tiny_tokenizer(template)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=tied,
        bos_token_id=0,
        eos_token_id=1,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        llm = LlamaForCausalLM(config)
    with torch.no_grad():
        llm.lm_head.weight.mul_(head_scale)
    llm.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def color_example(index: int, *, frames: int = 1, views: int = 1, text_only: bool = False) -> TrainingExample:
    """What is the color? Its number is where the patches are large."""
    color = index % len(COLORS)
    generator = torch.Generator().manual_seed(index)
    patches = torch.randn(frames, views, 4, WIDTH, generator=generator) * 0.1
    patches[..., color * 4 : color * 4 + 4] += 2.0
    question = "Say red." if text_only else "Color?\n<image>"
    answer = "red" if text_only else COLORS[color]
    return TrainingExample(
        example_id=f"e{index}",
        source="colors",
        turns=(Turn("human", question), Turn("gpt", answer)),
        media=() if text_only else (MediumFeatures(patches),),
    )


class CountedSteps:
    """The order of examples as plain arithmetic: steps over numbered examples, cut into epochs."""

    def __init__(self, batch: int, micro_batch: int, steps_per_epoch: int = 3) -> None:
        self.batch, self.micro_batch, self.steps_per_epoch = batch, micro_batch, steps_per_epoch
        self.epoch = self.step = 0

    def __iter__(self) -> Iterator[list[list[TrainingExample]]]:
        while True:
            first = (self.epoch * self.steps_per_epoch + self.step) * self.batch
            examples = [self.example(first + index) for index in range(self.batch)]
            starts = range(0, self.batch, self.micro_batch)
            self.step += 1
            if self.step == self.steps_per_epoch:
                self.epoch, self.step = self.epoch + 1, 0
            yield [examples[start : start + self.micro_batch] for start in starts]

    def example(self, index: int) -> TrainingExample:
        return color_example(index, frames=1 + index % 2, text_only=index % 7 == 6)

    def state_dict(self) -> dict[str, int | str]:
        return {"epoch": self.epoch, "step": self.step, "order": "counted"}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        assert state["order"] == "counted"
        self.epoch, self.step = int(str(state["epoch"])), int(str(state["step"]))


class CaptionSteps(CountedSteps):
    """The same for stage 1, which learns captions only."""

    def example(self, index: int) -> TrainingExample:
        return color_example(index)


def tiny_config(llm: Path, out: Path, stage: int = 2, **sections: dict[str, object]) -> TrainConfig:
    """A configuration in float32 on the CPU; a section given replaces the keys that it names."""
    fusion: dict[str, object] = {"grid": 1, "prefusion": {"layers": 1, "init": "zero"}}
    defaults: dict[str, dict[str, object]] = {
        "model": {"llm": str(llm), **(fusion if stage == 2 else {})},
        "data": {"batch": 4, "micro_batch": 2, "max_tokens": 200},
        "optimizer": {"lr": 3e-3, **({"projector_lr": 3e-3} if stage == 2 else {})},
        "run": {"steps": 8, "dtype": "float32", "device": "cpu", "save_every": 4, "log_every": 1},
    }
    merged = {name: values | sections.get(name, {}) for name, values in defaults.items()}
    rest = {name: values for name, values in sections.items() if name not in defaults}
    value = {"corpus": "none", "stage": stage, "out": str(out), **merged, **rest}
    return build(value, TrainConfig, "tiny")


def tiny_run(config: TrainConfig, steps: CountedSteps | None = None) -> TrainingRun:
    """A fresh run of a configuration."""
    kind = CountedSteps if config.stage == 2 else CaptionSteps
    return TrainingRun(
        assembly=assemble(config, WIDTH),
        config=config,
        source=steps or kind(config.data.batch, config.data.micro_batch),
        identity=IDENTITY,
        num_steps=config.run.steps or 1,
    )
