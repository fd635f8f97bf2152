import pytest

from schemas.configuration import parse_yaml
from schemas.errors import ConfigError
from schemas.training import TrainConfig

MINIMAL = "corpus: c\nstage: {stage}\nout: o\n"


def parse(text: str) -> TrainConfig:
    return parse_yaml(text, TrainConfig, "train.yaml")


@pytest.mark.parametrize(("stage", "lr", "projector_lr", "epochs"), [(1, 1e-3, 1e-3, 1), (2, 1e-4, 1e-5, 2)])
def test_defaults_are_the_papers(stage: int, lr: float, projector_lr: float, epochs: int) -> None:
    config = parse(MINIMAL.format(stage=stage))
    assert (config.lr, config.projector_lr, config.epochs) == (lr, projector_lr, epochs)
    assert (config.data.batch, config.optimizer.warmup_share, config.optimizer.schedule) == (
        256,
        0.03,
        "cosine",
    )


def test_the_projector_follows_lr_in_stage_1_only() -> None:
    assert parse(MINIMAL.format(stage=1) + "optimizer: {lr: 0.01}").projector_lr == 0.01
    assert parse(MINIMAL.format(stage=2) + "optimizer: {lr: 0.01}").projector_lr == 1e-5


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("run: {steps: 1, epochs: 1}", "either steps or epochs"),
        ("data: {batch: 10, micro_batch: 4}", "no multiple"),
        ("data: {frames: {max: 2, uniform: 3}}", "either max or uniform"),
        ("optimiser: {}", "did you mean 'optimizer'"),
        ("sources: {a: 1}", "unknown key 'sources', did you mean 'data.sources'"),
        ("run: {lr: 1}", r"unknown key 'run\.lr', did you mean 'optimizer\.lr'"),
        ("data: {model: {}}", r"unknown key 'data\.model', did you mean 'model'"),
    ],
)
def test_contradictions_are_refused(extra: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(MINIMAL.format(stage=1) + extra)


@pytest.mark.parametrize(
    ("section", "unused", "message"),
    [
        ("optimizer: {kind: adafactor, betas: [%s, 0.999]}", ("0.8", "0.9"), "betas: of AdamW"),
        ("model: {reducer: average, grid: %s}", ("2", "1"), "grid: of the compressor's queries.*average"),
        ("model: {reducer: all, positions: %s}", ("native", "published"), "positions: of the compressor"),
        ("model: {prefusion: {layers: 0, init: %s}}", ("copy", "zero"), "layers: 0 leaves pre-fusion out"),
        ("model: {lora: {}, train_embeddings: %s}", ("true", "false"), "lora freezes the language model"),
    ],
)
def test_what_would_have_no_effect_is_refused(section: str, unused: tuple[str, str], message: str) -> None:
    """As it is by default it may stand there: a checkpoint's configuration names every setting."""
    chosen, default = unused
    with pytest.raises(ConfigError, match=message):
        parse(MINIMAL.format(stage=2) + section % chosen)
    kept = parse(MINIMAL.format(stage=2) + section % default)
    assert TrainConfig.model_validate(kept.model_dump(mode="json")) == kept


@pytest.mark.parametrize(
    "section",
    [
        "model: {template: vicuna_v1}",
        "model: {grid: 2}",
        "model: {positions: native}",
        "model: {prefusion: {layers: 2}}",
        "model: {train_embeddings: true}",
        "model: {prefusion: {init: copy}}",
        "optimizer: {projector_lr: 1.0e-3}",
        "memory: {frames_per_chunk: 4}",
    ],
)
def test_stage_1_refuses_settings_of_what_it_has_not(section: str) -> None:
    part, _, name = section.partition(": {")
    with pytest.raises(ConfigError, match=f"leave `{part}.{name.partition(':')[0]}` out"):
        parse(MINIMAL.format(stage=1) + section)
    parse(MINIMAL.format(stage=2) + section)


def test_stage_1_takes_what_has_an_effect_and_what_is_as_by_default() -> None:
    kept = parse(
        MINIMAL.format(stage=1) + "model: {grid: 1, template: own, prefusion: {layers: 4}, reducer: prumerge}"
    )
    assert TrainConfig.model_validate(kept.model_dump(mode="json")) == kept


def test_the_digest_leaves_out_what_decides_no_number() -> None:
    base = parse(MINIMAL.format(stage=1))
    moved = parse(
        "corpus: s3://elsewhere\nspec: '12345678'\nstage: 1\nout: p\n"
        "memory: {checkpoint_layers: true}\nrun: {save_every: 7, device: cpu, threads: 2}"
    )
    assert moved.run_digest == base.run_digest
    for extra in ("run: {seed: 1}", "model: {llm: x}", "data: {micro_batch: 16}", "optimizer: {lr: 0.1}"):
        assert parse(MINIMAL.format(stage=1) + extra).run_digest != base.run_digest
