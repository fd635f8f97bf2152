"""Workers with an encoder state memory by its weights, and a GPU where there are any."""

from pathlib import Path

import pytest
from encodable_inputs import write_encoder

from operators.clip import load_encoder
from pipelines.engine import SerialEngine
from pipelines.featurize.resources import BESIDE_WEIGHTS_BYTES, DECODER_BYTES, state_resources


class GpuEngine(SerialEngine):
    has_gpu = True


@pytest.mark.parametrize(("engine", "num_gpus"), [(SerialEngine(), 0.0), (GpuEngine(), 1.0)])
def test_memory_is_stated_by_the_weights(tmp_path: Path, engine: SerialEngine, num_gpus: float) -> None:
    write_encoder(tmp_path / "encoder", 0)
    encoder = load_encoder(str(tmp_path / "encoder"))
    num_weights = sum(weight.numel() for weight in encoder.parameters())
    stated = state_resources(engine, encoder, 3)
    assert num_weights > 1000
    assert stated.num_gpus == num_gpus
    assert stated.memory_bytes == BESIDE_WEIGHTS_BYTES + 2 * 4 * num_weights + 3 * DECODER_BYTES
    assert stated.num_cpus == 1.0
