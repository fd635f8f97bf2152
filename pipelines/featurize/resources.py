"""What a worker with an encoder occupies, as the engine is told before it places one.

Memory is reckoned from the weights, twice them for what is in work, beside Python's libraries, buffers of
pixels and the processes that decode. On a GPU the same stands for the host: weights pass through its memory.
CPUs are not stated beyond the encoder's own: on a CPU it has the core nearly for itself, and on a machine
with GPUs these bound how many workers there are, whose decoders then share its CPUs.
"""

from typing import Final

from operators.clip import VisionEncoder
from pipelines.engine import Engine, Resources

BESIDE_WEIGHTS_BYTES: Final = 1 << 30
DECODER_BYTES: Final = 256 << 20
"""Of a process that decodes a long clip or a large picture; what it may have at most is far more."""


def state_resources(engine: Engine, encoder: VisionEncoder, num_decoders: int) -> Resources:
    """The resources of one worker; a whole GPU where there are any."""
    num_weight_bytes = sum(weight.nbytes for weight in encoder.parameters())
    return Resources(
        num_gpus=1.0 if engine.has_gpu else 0.0,
        memory_bytes=BESIDE_WEIGHTS_BYTES + 2 * num_weight_bytes + num_decoders * DECODER_BYTES,
    )
