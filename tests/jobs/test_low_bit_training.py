"""`onetoken train` with moments or a frozen base in few bits: it learns, stops, goes on and answers."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import yaml
from small_job import QUESTION, SmallJob, run_onetoken, write_yaml

from pipelines.train.metrics import read_reports

pytestmark = [
    pytest.mark.slow,
    # Of bitsandbytes and torchao, and of peft, which imports both.
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]
NUM_STEPS, CUT_AT = 40, 30
IN_BACKWARD = {"weights": "bfloat16", "in_backward": True}
BFLOAT16 = {"run": {"dtype": "bfloat16"}}
WAYS: dict[str, tuple[str, dict[str, dict[str, object]]]] = {
    "adamw_8bit": ("torchao", {"optimizer": {"kind": "adamw_8bit", **IN_BACKWARD}, **BFLOAT16}),
    "adamw_4bit": ("torchao", {"optimizer": {"kind": "adamw_4bit", **IN_BACKWARD}, **BFLOAT16}),
    "nf4": ("bitsandbytes", {"model": {"lora": {"rank": 4, "alpha": 8, "base": "nf4"}}}),
}


def write_config(job: SmallJob, out: Path, steps: int, sections: dict[str, dict[str, object]]) -> Path:
    config: dict[str, Any] = yaml.safe_load(job.stage(2).read_text()) | {"out": str(out)}
    config["run"] |= {"steps": steps, "save_every": CUT_AT}
    for name, changes in sections.items():
        config[name] |= changes
    return write_yaml(out.with_suffix(".yaml"), config)


def train(
    job: SmallJob, out: Path, steps: int, sections: dict[str, dict[str, object]], *more: str
) -> list[float]:
    outcome = run_onetoken("train", write_config(job, out, steps, sections), *more)
    assert outcome.status == 0, outcome.err
    losses = [report.loss for report in read_reports(out)]
    assert len(losses) == steps
    return losses


@pytest.mark.parametrize("way", WAYS)
def test_it_learns_goes_on_and_answers(small_job: SmallJob, outcomes, tmp_path: Path, way: str) -> None:
    library, sections = WAYS[way]
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"needs {library}")
    losses = train(small_job, tmp_path / way, NUM_STEPS, sections)
    plain = train(small_job, tmp_path / "plain", NUM_STEPS, {})
    assert losses[0] == pytest.approx(plain[0], rel=0.05), "nothing has been learned yet"
    assert sum(losses[-8:]) < 0.9 * sum(losses[:8])
    (tmp_path / way / f"step-{NUM_STEPS:06d}").rename(tmp_path / "gone")
    assert train(small_job, tmp_path / way, NUM_STEPS, sections, "--resume") == losses
    picture = small_job.folder / "media/0.png"
    said = run_onetoken("generate", tmp_path / way, QUESTION, "--image", picture, "--max-new-tokens", 2)
    assert said.status == 0, said.err
