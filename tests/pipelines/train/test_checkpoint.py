"""Whole or not there, checked when opened, and only for the run that wrote it."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from tiny_training import IDENTITY, WIDTH, save_language_model, tiny_config, tiny_run

from pipelines.train import checkpoint as checkpoint_module
from pipelines.train.assembly import assemble, restore
from pipelines.train.checkpoint import (
    check_resumable,
    check_start_encoder,
    latest_checkpoint,
    load_weights,
    open_checkpoint,
    remove_old_checkpoints,
    unique_tensors,
)
from pipelines.train.loop import train
from pipelines.train.metrics import StepReport
from pipelines.train.tensor_file import read_tensors
from schemas.errors import (
    ConfigError,
    ConflictError,
    CorruptError,
    DivergedError,
    MismatchError,
    NotFoundError,
)
from schemas.feature import CodecIdentity


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_language_model(tmp_path_factory.mktemp("llm"))


@pytest.fixture(scope="module")
def trained(llm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two steps of stage 2."""
    out = tmp_path_factory.mktemp("trained")
    return train(tiny_run(tiny_config(llm, out, run={"steps": 2})))


@pytest.fixture
def copy(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / trained.name))


def test_what_stands_in_a_checkpoint(trained: Path) -> None:
    checkpoint = open_checkpoint(trained)
    files = {path.relative_to(trained).as_posix() for path in trained.rglob("*") if path.is_file()}
    assert files == checkpoint.state.files.keys() | {"state.json"}
    assert {"model.safetensors", "optimizer.safetensors", "config.yaml", "llm/config.json"} <= files
    assert {"tokenizer/tokenizer.json", "tokenizer/tokenizer_config.json"} <= files
    assert checkpoint.state.step == 2
    assert checkpoint.state.stream == {"epoch": 0, "step": 2, "order": "counted"}
    assert checkpoint.state.identity == IDENTITY
    assert checkpoint.config.run_digest == checkpoint.state.run_sha256


def test_it_needs_nothing_else(llm: Path, tmp_path: Path) -> None:
    """The language model's folder may go."""
    moved = Path(shutil.copytree(llm, tmp_path / "llm"))
    run = tiny_run(tiny_config(moved, tmp_path / "out", run={"steps": 1}))
    folder = train(run)
    shutil.rmtree(moved)
    restored = restore(open_checkpoint(folder), to_train=False)
    expected = unique_tensors(run.assembly.model)
    assert len(expected) > 20
    found = unique_tensors(restored.model)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert not any(weight.requires_grad for weight in restored.model.parameters())
    assert restored.prompter.stop_ids == run.assembly.prompter.stop_ids


def test_tied_weights_are_stored_once_and_stay_tied(tmp_path: Path) -> None:
    llm = save_language_model(tmp_path / "llm", tied=True)
    run = tiny_run(tiny_config(llm, tmp_path / "out", run={"steps": 1}))
    folder = train(run)
    names = read_tensors(folder / "model.safetensors").keys()
    assert len([name for name in names if "embed_tokens" in name or "lm_head" in name]) == 1
    model = restore(open_checkpoint(folder), to_train=True).model
    assert model.token_embeddings.weight is model.head.weight
    assert torch.equal(model.token_embeddings.weight, run.assembly.model.token_embeddings.weight)


def test_a_partial_folder_is_no_checkpoint(copy: Path) -> None:
    out = copy.parent
    shutil.copytree(copy, out / ".step-000009.partial")
    (out / "step-7").mkdir()
    assert latest_checkpoint(out) == copy
    assert open_checkpoint(out).folder == copy


def test_a_save_that_dies_leaves_none_and_can_be_repeated(
    llm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(llm, tmp_path, run={"steps": 1})
    for dying in ("_write_contents", "_write_state", "_sync"):
        with monkeypatch.context() as patch:
            patch.setattr(checkpoint_module, dying, _die)
            with pytest.raises(KeyboardInterrupt):
                train(tiny_run(config))
        assert latest_checkpoint(tmp_path) is None
    folder = train(tiny_run(config))
    assert open_checkpoint(tmp_path).folder == folder
    assert not list(tmp_path.glob(".*"))


def _die(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    "name", ["model.safetensors", "optimizer.safetensors", "config.yaml", "tokenizer/tokenizer.json"]
)
def test_a_flipped_byte_is_found(copy: Path, name: str) -> None:
    data = bytearray((copy / name).read_bytes())
    data[-1] ^= 1
    (copy / name).write_bytes(data)
    with pytest.raises(CorruptError, match=name):
        open_checkpoint(copy)


@pytest.mark.parametrize("name", ["model.safetensors", "llm/config.json"])
def test_a_missing_file_is_found(copy: Path, name: str) -> None:
    (copy / name).unlink()
    with pytest.raises(CorruptError, match=name):
        open_checkpoint(copy)


@pytest.mark.parametrize("text", ["{", '{"format": 2}', ""])
def test_a_state_that_cannot_be_read_is_corrupt(copy: Path, text: str) -> None:
    (copy / "state.json").write_text(text)
    with pytest.raises(CorruptError, match=r"state\.json"):
        open_checkpoint(copy)


def test_no_checkpoint_is_an_error(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(NotFoundError, match="no checkpoint"):
            open_checkpoint(path)


def test_another_run_is_refused_with_what_differs(llm: Path, trained: Path) -> None:
    checkpoint = open_checkpoint(trained)
    same = tiny_config(
        llm, Path("elsewhere"), run={"steps": 2, "save_every": 77}, memory={"checkpoint_layers": True}
    )
    check_resumable(checkpoint, same, IDENTITY)
    other = tiny_config(llm, trained.parent, run={"steps": 2, "seed": 5}, model={"grid": 2})
    with pytest.raises(MismatchError) as caught:
        check_resumable(checkpoint, other, IDENTITY.model_copy(update={"manifest_sha256": "n" * 64}))
    message = str(caught.value)
    assert "model.grid was 1 and is 2" in message
    assert "run.seed was 0 and is 5" in message
    assert "manifest_sha256 was 'mmm" in message
    assert "spec." not in message


def test_a_step_is_never_overwritten(llm: Path, tmp_path: Path) -> None:
    config = tiny_config(llm, tmp_path, run={"steps": 1})
    train(tiny_run(config))
    with pytest.raises(ConflictError, match="--resume"):
        train(tiny_run(config))


def test_old_checkpoints_are_removed(llm: Path, tmp_path: Path) -> None:
    for keep, left in ((2, ["step-000003", "step-000004"]), (None, [f"step-00000{n}" for n in (1, 2, 3, 4)])):
        out = tmp_path / str(keep)
        train(tiny_run(tiny_config(llm, out, run={"steps": 4, "save_every": 1, "keep_last": keep})))
        assert sorted(path.name for path in out.glob("step-*")) == left


def test_a_kill_while_removing_leaves_no_half_checkpoint(
    llm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(tiny_run(tiny_config(llm, tmp_path, run={"steps": 2, "save_every": 1, "keep_last": None})))

    def die(folder: Path) -> None:
        (folder / "state.json").unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("pipelines.train.checkpoint.shutil.rmtree", die)
        with pytest.raises(KeyboardInterrupt):
            remove_old_checkpoints(tmp_path, 1)
    assert [path.name for path in tmp_path.glob("step-*")] == ["step-000002"]
    assert latest_checkpoint(tmp_path) == tmp_path / "step-000002"
    assert list(tmp_path.glob(".*"))
    remove_old_checkpoints(tmp_path, 1)
    assert not list(tmp_path.glob(".*"))


def test_an_error_tells_of_a_checkpoint_that_was_not_written(
    llm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run dies of its third step, and nobody waited for what the second had to write."""

    def fail(*_: object) -> Path:
        raise OSError("the disk is full")

    def stop(report: StepReport) -> None:
        if report.step == 3:
            raise DivergedError("the loss is nan")

    monkeypatch.setattr("pipelines.train.saving.write_checkpoint", fail)
    config = tiny_config(llm, tmp_path, run={"steps": 4, "save_every": 2})
    with pytest.raises(DivergedError) as caught:
        train(tiny_run(config), None, stop)
    assert caught.value.__notes__ == ["and the last checkpoint was not written: the disk is full"]


def test_weights_of_another_shape_are_refused(llm: Path, trained: Path) -> None:
    model = assemble(tiny_config(llm, Path("none"), model={"grid": 2}), WIDTH).model
    with pytest.raises(MismatchError, match=r"weight compressor\.\w+ is \(1, 16\) there and \(4, 16\) here"):
        load_weights(model, open_checkpoint(trained))


def test_stage_2_starts_from_stage_1(llm: Path, tmp_path: Path) -> None:
    """Its projector and language model; the new modules are fresh."""
    first = tiny_run(tiny_config(llm, tmp_path / "one", 1, run={"steps": 2}))
    folder = train(first)
    second = assemble(tiny_config(llm, tmp_path / "two", model={"start_from": str(folder)}), WIDTH).model
    fresh = assemble(tiny_config(llm, tmp_path / "two"), WIDTH).model
    trained, begun, untrained = (unique_tensors(m) for m in (first.assembly.model, second, fresh))
    assert all(torch.equal(trained[name], begun[name]) for name in trained)
    assert not torch.equal(begun["projector.0.weight"], untrained["projector.0.weight"])
    new = begun.keys() - trained.keys()
    assert any(name.startswith("compressor") for name in new)
    assert any(name.startswith("prefusion") for name in new)
    assert all(torch.equal(begun[name], untrained[name]) for name in new)


def test_copied_prefusion_is_of_the_weights_that_were_started_from(tmp_path: Path) -> None:
    """Not of those that the model was built with, which another seed draws."""
    save_language_model(tmp_path / "llm")
    first = train(tiny_run(tiny_config(tmp_path / "llm", tmp_path / "one", 1, run={"steps": 1})))
    start = {"start_from": str(first), "prefusion": {"init": "copy", "layers": 2}}
    torch.manual_seed(1)
    model = assemble(tiny_config(tmp_path / "llm", tmp_path / "two", model=start), WIDTH).model
    assert model.prefusion is not None
    stored = read_tensors(first / "model.safetensors")
    copied = model.prefusion.layers[0].state_dict()
    assert len(copied) > 5
    for name, tensor in copied.items():
        assert torch.equal(tensor, stored[f"llm.model.layers.0.{name}"]), name


def test_stage_2_goes_on_from_stage_2(llm: Path, trained: Path) -> None:
    begun = assemble(tiny_config(llm, Path("none"), model={"start_from": str(trained)}), WIDTH).model
    stored = read_tensors(trained / "model.safetensors")
    assert all(torch.equal(stored[name], tensor) for name, tensor in unique_tensors(begun).items())


def test_starts_that_do_not_fit_are_refused(llm: Path, trained: Path) -> None:
    start = {"start_from": str(trained)}
    with pytest.raises(MismatchError, match="width 16, those of this spec have 24"):
        assemble(tiny_config(llm, Path("none"), model=start), 24)
    with pytest.raises(MismatchError, match="not other"):
        assemble(tiny_config(Path("other"), Path("none"), model=start), WIDTH)
    with pytest.raises(ConfigError, match="stage 1 cannot start"):
        assemble(tiny_config(llm, Path("none"), 1, model=start), WIDTH)


def test_a_start_that_read_another_encoder_is_refused(trained: Path) -> None:
    """Width alone does not tell: other weights and another layer give features of the same width."""
    spec = IDENTITY.spec
    check_start_encoder(trained, spec)
    check_start_encoder(trained, spec.model_copy(update={"codec": CodecIdentity(name="fp16", version=1)}))
    other = spec.encoder.model_copy(update={"weights_sha256": "f" * 64, "layer": -1})
    with pytest.raises(MismatchError) as refused:
        check_start_encoder(trained, spec.model_copy(update={"encoder": other}))
    processor = spec.processor.model_copy(update={"mean": (0.5, 0.5, 0.5)})
    with pytest.raises(MismatchError, match=r"processor\.mean is"):
        check_start_encoder(trained, spec.model_copy(update={"processor": processor}))
    for words in ("another encoder", "encoder.layer is -1 here", "encoder.weights_sha256 is fff"):
        assert words in str(refused.value)


def test_state_json_is_plain_json(trained: Path) -> None:
    state = json.loads((trained / "state.json").read_text())
    assert state["format"] == 1
    assert set(state["versions"]) == {"torch", "transformers"}
