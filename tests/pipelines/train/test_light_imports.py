"""A bare GPU machine can import operators and trainer: nothing of the cluster or of storage comes along."""

import pkgutil
import subprocess
import sys

import operators
import pipelines.train

HEAVY = {"ray", "s3fs", "polars", "pyarrow"}


def test_training_loads_no_cluster_and_no_storage() -> None:
    packages = [(operators, "operators."), (pipelines.train, "pipelines.train.")]
    modules = [
        module.name
        for package, prefix in packages
        for module in pkgutil.walk_packages(package.__path__, prefix)
        if not module.ispkg
    ]
    assert {"operators.prompt", "pipelines.train.loop", "pipelines.train.answer"} <= set(modules)
    script = (
        "import importlib, sys\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
        f"print(*sorted({HEAVY!r} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []
