"""Manifests are what KubeRay's operator takes by its own schema, and say what a cluster has to have."""

import gzip
import re
import shlex
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml
from jsonschema import Draft202012Validator

from jobs.cli import build_app
from schemas.configuration import parse_yaml
from schemas.recipe import Recipe
from schemas.training import TrainConfig

REPOSITORY = Path(__file__).resolve().parents[2]
FOLDER = REPOSITORY / "infra/kubernetes"
SCHEMAS = REPOSITORY.parent / "shared/kuberay"
MODELS = {"recipe.yaml": Recipe, "stage2.yaml": TrainConfig}


def read_documents() -> list[tuple[str, dict[str, Any]]]:
    return [
        (path.name, document)
        for path in sorted(FOLDER.glob("*.yaml"))
        for document in yaml.safe_load_all(path.read_text())
    ]


DOCUMENTS = read_documents()
OF_RAY = [(name, one) for name, one in DOCUMENTS if one["apiVersion"] == "ray.io/v1"]
MAPS = [(name, one) for name, one in DOCUMENTS if one["kind"] == "ConfigMap"]


def cluster_of(document: dict[str, Any]) -> dict[str, Any]:
    return document["spec"] if document["kind"] == "RayCluster" else document["spec"]["rayClusterSpec"]


def groups_of(document: dict[str, Any]) -> list[dict[str, Any]]:
    cluster = cluster_of(document)
    return [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]


def find_unknown(schema: dict[str, Any], value: Any, where: str = "") -> list[str]:
    """Fields that the operator would drop without a word."""
    if isinstance(value, list):
        items = schema.get("items", {})
        return [
            name
            for number, one in enumerate(value)
            for name in find_unknown(items, one, f"{where}[{number}]")
        ]
    if not isinstance(value, dict) or schema.get("x-kubernetes-preserve-unknown-fields"):
        return []
    known, more = schema.get("properties", {}), schema.get("additionalProperties")
    unknown: list[str] = []
    for name, one in value.items():
        if name in known:
            unknown += find_unknown(known[name], one, f"{where}.{name}")
        elif not more and where != ".metadata":
            unknown.append(f"{where}.{name}")
    return unknown


@cache
def read_schema(kind: str) -> dict[str, Any]:
    path = SCHEMAS / f"ray.io_{kind.lower()}s.yaml.gz"
    if not path.exists():
        pytest.skip(f"no definitions of the operator at {SCHEMAS}")
    # the fast loader: a definition has some 30,000 lines
    definition = yaml.load(gzip.decompress(path.read_bytes()), yaml.CSafeLoader)
    (version,) = [one for one in definition["spec"]["versions"] if one["name"] == "v1"]
    return version["schema"]["openAPIV3Schema"]


def test_there_is_a_cluster_and_a_job_for_each_kind_of_work():
    assert [(name, one["kind"]) for name, one in OF_RAY] == [
        ("build.yaml", "RayJob"),
        ("cluster.yaml", "RayCluster"),
        ("train.yaml", "RayJob"),
    ]


@pytest.mark.parametrize(("name", "document"), OF_RAY, ids=[name for name, _ in OF_RAY])
def test_the_operator_takes_it(name, document):
    schema = read_schema(document["kind"])
    assert [error.message for error in Draft202012Validator(schema).iter_errors(document)] == []
    assert find_unknown(schema, document) == []


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda spec: spec.update(backoffLimit="four"), "is not of type 'integer'"),
        (
            lambda spec: spec["rayClusterSpec"]["headGroupSpec"].pop("template"),
            "'template' is a required property",
        ),
    ],
)
def test_what_the_operator_would_refuse_is_found(spoil, complaint):
    (document,) = [yaml.safe_load(yaml.safe_dump(one)) for name, one in OF_RAY if name == "build.yaml"]
    schema = read_schema("RayJob")
    spoil(document["spec"])
    assert any(complaint in error.message for error in Draft202012Validator(schema).iter_errors(document))


def test_a_misspelled_field_is_found():
    (document,) = [yaml.safe_load(yaml.safe_dump(one)) for name, one in OF_RAY if name == "build.yaml"]
    document["spec"]["rayClusterSpec"]["headGroupSpec"]["rayStartParam"] = {}
    assert find_unknown(read_schema("RayJob"), document) == [
        ".spec.rayClusterSpec.headGroupSpec.rayStartParam"
    ]


@pytest.mark.parametrize(("name", "document"), OF_RAY, ids=[name for name, _ in OF_RAY])
def test_the_head_does_no_work_and_nobody_is_root(name, document):
    cluster = cluster_of(document)
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert cluster["authOptions"] == {"mode": "token"}
    images = set()
    for group in groups_of(document):
        pod = group["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        (container,) = pod["containers"]
        images.add(container["image"])
        mounted = {mount["name"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]}
        assert container["resources"]["limits"]["memory"] == container["resources"]["requests"]["memory"]
    assert len(images) == 1
    assert f"ray=={cluster['rayVersion']}\n" in (REPOSITORY / "requirements.lock").read_text()


@pytest.mark.parametrize(("name", "document"), OF_RAY, ids=[name for name, _ in OF_RAY])
def test_the_gpu_group_asks_for_gpus_and_no_other_does(name, document):
    with_gpus = [
        group["groupName"]
        for group in cluster_of(document)["workerGroupSpecs"]
        if "nvidia.com/gpu" in group["template"]["spec"]["containers"][0]["resources"]["limits"]
    ]
    assert with_gpus == ["gpu"]


@pytest.mark.parametrize(("name", "job"), [one for one in OF_RAY if one[1]["kind"] == "RayJob"])
def test_a_job_can_be_tried_again_and_its_command_is_understood(name, job):
    spec = job["spec"]
    assert spec["backoffLimit"] > 0
    program, verb, *arguments = shlex.split(spec["entrypoint"])
    assert program == "onetoken"
    typer.main.get_group(build_app()).commands[verb].make_context(verb, list(arguments))
    assert "--resume" in arguments if verb == "train" else verb == "build"
    (file,) = [word for word in arguments if word.startswith("/configuration/")]
    (content,) = [one["data"] for other, one in MAPS if other == name]
    assert file.removeprefix("/configuration/") in content


@pytest.mark.parametrize(("name", "document"), MAPS, ids=[name for name, _ in MAPS])
def test_files_in_manifests_are_understood(name, document):
    ((file, text),) = document["data"].items()
    parsed = parse_yaml(text, MODELS[file], name)
    if isinstance(parsed, TrainConfig):
        assert parsed.out.startswith("/runs/")
        path = REPOSITORY / "jobs/recipes/stage2_32gb.yaml"
        shipped = parse_yaml(path.read_text(), TrainConfig, str(path))
        for section in ("data", "optimizer", "memory", "run"):
            assert getattr(parsed, section) == getattr(shipped, section), "it fits one card of 32 GB"


def test_the_image_is_not_root_and_holds_the_project():
    text = (REPOSITORY / "infra/docker/Dockerfile").read_text()
    stages = re.findall(r"^FROM .*$", text, re.MULTILINE)
    assert len(stages) == 2
    assert re.search(r"^USER 1000$", text, re.MULTILINE)
    copied = set(re.findall(r"^COPY (\w+) \1$", text, re.MULTILINE))
    assert copied == {"schemas", "operators", "infra", "pipelines", "jobs"}
    for name in re.findall(r"^COPY ((?:[\w.]+ )+)\./$", text, re.MULTILINE)[0].split():
        assert (REPOSITORY / name).exists()
    ignored = (REPOSITORY / "infra/docker/Dockerfile.dockerignore").read_text().split()
    assert {f"!{name}" for name in copied} <= set(ignored)


@pytest.mark.parametrize("name", ["prometheus.yml", "grafana-datasources.yml", "grafana-dashboards.yml"])
def test_monitoring_files_are_yaml(name):
    assert yaml.safe_load((REPOSITORY / "infra/monitoring" / name).read_text())
