"""A cluster as a user describes it for planning: what it has, how well it is used, what it costs."""

from typing import Annotated

from pydantic import Field

from schemas.configuration import StrictModel

Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(gt=0, le=1)]
Price = Annotated[float, Field(ge=0)]


class Prices(StrictModel):
    """In any one currency; what is left out costs nothing."""

    cpu_hour: Price = 0.0
    """Of one core."""
    gpu_hour: Price = 0.0
    tb_month: Price = 0.0
    """Of 10^12 bytes kept for a month."""
    thousand_puts: Price = 0.0
    thousand_gets: Price = 0.0


class ClusterSpec(StrictModel):
    """Machines of one kind."""

    nodes: Annotated[int, Field(gt=0)] = 1
    cpus: Annotated[int, Field(gt=0)] = 8
    """Of a node."""
    gpus: Annotated[int, Field(ge=0)] = 1
    """Of a node."""
    gpu_tflops: Positive = 312.0
    """Dense, in bfloat16; an A100 has 312, an H100 989."""
    training_share: Share = 0.4
    """Of the peak that training reaches."""
    encoding_share: Share = 0.2
    """Of the peak that the encoder reaches: its matrices are small."""
    network_gb_s: Positive = 1.0
    """Of a node, from where features are kept."""
    hours_to_failure: Positive = 100.0
    """Of one node, on average; for simulated builds."""
    months: Annotated[float, Field(ge=0)] = 1.0
    """How long features are kept."""
    prices: Prices = Prices()

    @property
    def num_cpus(self) -> int:
        """Of all nodes."""
        return self.nodes * self.cpus

    @property
    def num_gpus(self) -> int:
        """Of all nodes."""
        return self.nodes * self.gpus
