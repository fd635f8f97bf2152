"""Workers of Ray Train take the stream's steps as any ranks do."""

import json
import sys
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import ModuleType

import pytest
from test_real_ranks import weave
from test_stream import DATA, names, open_stream, run
from tiny_corpus import TinyCorpus, build_corpus

from infra.ray_cluster import ray_cluster
from infra.ray_train import WorkerPlace, WorkerPlan, find_worker_place, run_on_workers
from infra.storage import LocalStorage
from pipelines.commit import publish_manifest
from pipelines.stream.ray_worker import open_worker_stream
from schemas.errors import ConfigError, MismatchError

# Ray Train's own imports warn.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> TinyCorpus:
    corpus = build_corpus(tmp_path_factory.mktemp("corpus"), rejected=(0, 5))
    publish_manifest(corpus.storage, corpus.manifest, None)
    return corpus


@dataclass(frozen=True)
class Context:
    """What Ray Train tells a worker."""

    rank: int
    size: int
    local: int

    def get_world_rank(self) -> int:
        return self.rank

    def get_world_size(self) -> int:
        return self.size

    def get_local_world_size(self) -> int:
        return self.local


def pretend_place(monkeypatch: pytest.MonkeyPatch, context: Context) -> None:
    """In place of Ray, which reads its settings once, when it is imported: here they are of no cluster."""
    train = ModuleType("ray.train")
    train.__dict__["get_context"] = lambda: context
    monkeypatch.setitem(sys.modules, "ray", ModuleType("ray"))
    monkeypatch.setitem(sys.modules, "ray.train", train)


def test_the_place_is_that_of_the_context(corpus: TinyCorpus, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, states = [], []
    for rank in range(3):
        pretend_place(monkeypatch, Context(rank, 3, 2))
        assert find_worker_place() == WorkerPlace(rank, 3, 2)
        stream = open_worker_stream(corpus.storage.url, DATA, seed=3, num_epochs=2)
        begun.append([names(step) for step in islice(stream, 5)])
        states.append(stream.state_dict())
    assert all(state == states[0] for state in states)
    pretend_place(monkeypatch, Context(0, 1, 1))
    pinned = str(states[0]["manifest_digest"])
    rest = open_worker_stream(corpus.storage.url, DATA, seed=3, num_epochs=2, manifest_sha256=pinned)
    rest.load_state_dict(states[0])
    assert weave(begun) + run(rest) == run(open_stream(corpus))
    with pytest.raises(MismatchError):
        open_worker_stream(corpus.storage.url, DATA, seed=4).load_state_dict(states[0])


@pytest.mark.ray
@pytest.mark.slow
def test_workers_of_ray_train_stop_and_go_on_as_fewer(corpus: TinyCorpus, tmp_path: Path) -> None:
    """Two workers take seven steps, one takes the rest: the undisturbed run, in sequence."""

    def take_steps(arguments: dict) -> None:
        import json
        from itertools import islice
        from pathlib import Path

        import ray.train

        from pipelines.stream.ray_worker import open_worker_stream
        from pipelines.stream.together import StoppingTogether, open_cpu_group
        from schemas.stream import DataConfig

        data = DataConfig.model_validate(arguments["data"])
        stream = open_worker_stream(arguments["corpus"], data, seed=3, num_epochs=2)
        if arguments["state"]:
            stream.load_state_dict(arguments["state"])
        context = ray.train.get_context()
        steps = stream if context.get_world_size() == 1 else StoppingTogether(stream, open_cpu_group())
        seen = [
            [[example.example_id for example in batch] for batch in step]
            for step in islice(steps, arguments["num_steps"])
        ]
        told = {"seen": seen, "state": stream.state_dict()}
        Path(arguments["out"], f"{context.get_world_rank()}.json").write_text(json.dumps(told))

    def train(num_workers: int, num_steps: int | None, state: dict | None) -> list[dict]:
        out = tmp_path / f"{num_workers}"
        out.mkdir()
        arguments = {
            "data": DATA.model_dump(mode="json"),
            "corpus": str(Path(corpus.storage.url).absolute()),
            "state": state,
            "num_steps": num_steps,
            "out": str(out),
        }
        plan = WorkerPlan(num_workers=num_workers, use_gpu=False, folder=tmp_path / "ray", max_failures=0)
        run_on_workers(take_steps, arguments, plan)
        return [json.loads((out / f"{rank}.json").read_text()) for rank in range(num_workers)]

    assert isinstance(corpus.storage, LocalStorage)
    with ray_cluster(None, 2):
        first = train(2, 7, None)
        assert first[0]["state"] == first[1]["state"]
        (rest,) = train(1, None, first[0]["state"])
    with pytest.raises(ConfigError, match="no worker of Ray Train"):
        find_worker_place()
    assert weave([one["seen"] for one in first]) + rest["seen"] == run(open_stream(corpus))
