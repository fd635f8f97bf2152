"""The spec's digest: every field counts, names and places do not, and workers must agree on it."""

import shutil
import warnings

import PIL
import pytest
from encodable_inputs import make_recipe, write_encoder
from pydantic import BaseModel
from tiny_spec import tiny_spec
from watched_storage import read_objects

from infra.storage import LocalStorage
from pipelines.featurize.spec import check_same_spec, describe_spec, open_encoder, settings_of
from pipelines.featurize.write import EncodeWorker
from pipelines.shard.tables import Tables
from schemas.errors import MismatchError
from schemas.feature import FeatureSpec
from schemas.reducer import ReducerConfig

SPEC = tiny_spec(16, 32)
CHOSEN = {
    "aspect": "squash",
    "preprocess": "fast",
    "video": {"fps": None, "uniform": 4, "rule": "reference"},
}


def describe(recipe):
    return describe_spec(recipe.views, recipe.encoder, recipe.codec, open_encoder(recipe.encoder))


def list_fields(model, prefix=()):
    """The path of every value, through nested models and tuples."""
    for name in type(model).model_fields:
        value = getattr(model, name)
        if isinstance(value, BaseModel):
            yield from list_fields(value, (*prefix, name))
        elif isinstance(value, tuple):
            yield from ((*prefix, name, place) for place in range(len(value)))
        else:
            yield (*prefix, name)


def change(value, path):
    """The same spec with another value at a path."""
    if not path:
        return {bool: lambda: not value, int: lambda: value + 1, float: lambda: value + 0.5}.get(
            type(value), lambda: f"{value}x"
        )()
    name, *rest = path
    if isinstance(value, tuple):
        return (*value[:name], change(value[name], rest), *value[name + 1 :])
    return value.model_copy(update={name: change(getattr(value, name), rest)})


def digest_of_changed(path):
    with warnings.catch_warnings():
        # Literals of one value have no other; pydantic says so when the changed spec is written.
        warnings.filterwarnings("ignore", "Pydantic serializer warnings")
        return change(SPEC, path).digest


def test_every_field_of_the_spec_enters_its_digest():
    paths = list(list_fields(SPEC))
    assert len(paths) >= 30
    assert {path[0] for path in paths} == set(FeatureSpec.model_fields)
    digests = [digest_of_changed(path) for path in paths]
    assert len({SPEC.digest, *digests}) == len(paths) + 1


def test_the_digest_is_that_of_the_values_alone():
    assert FeatureSpec.model_validate_json(SPEC.model_dump_json()).digest == SPEC.digest
    backwards = dict(reversed(list(SPEC.model_dump().items())))
    assert FeatureSpec.model_validate(backwards).digest == SPEC.digest


def test_name_folder_and_batch_size_of_the_encoder_do_not_count(inputs, tmp_path):
    shutil.copytree(inputs / "encoder", tmp_path / "moved")
    here = make_recipe(inputs)
    moved = here.encoder.model_copy(update={"model": str(tmp_path / "moved"), "batch_size": 7})
    assert describe(here.model_copy(update={"encoder": moved})) == describe(here)


@pytest.mark.parametrize(
    "changes",
    [
        {"codec": "int8"},
        {"views": {"image": "global"}},
        {"views": {"aspect": "published"}},
        {"views": {"video": {"fps": 2.0}}},
        {"views": {"preprocess": "fast"}},
        {"views": {"video": {"fps": None, "uniform": 4}}},
        {"views": {"video": {"max_frames": 3}}},
    ],
    ids=str,
)
def test_what_a_recipe_says_of_features_counts(inputs, changes):
    assert describe(make_recipe(inputs, **changes)).digest != describe(make_recipe(inputs)).digest


@pytest.mark.parametrize("changes", [{"layer": -3}, {"dtype": "bfloat16"}], ids=str)
def test_what_a_recipe_says_of_the_encoder_counts(inputs, changes):
    here = make_recipe(inputs)
    other = here.model_copy(update={"encoder": here.encoder.model_copy(update=changes)})
    assert describe(other).digest != describe(here).digest


def test_the_rule_of_uniform_counts(inputs):
    even, reference = (
        make_recipe(inputs, views={"video": {"fps": None, "uniform": 4, "rule": rule}})
        for rule in ("even", "reference")
    )
    assert describe(even).digest != describe(reference).digest


def test_the_fast_way_names_who_resizes(inputs):
    found = describe(make_recipe(inputs, views={"preprocess": "fast"}))
    assert (found.preprocess, found.resizer.split()[0]) == ("fast", "torch")
    assert describe(make_recipe(inputs)).resizer == f"pillow {PIL.__version__}"


def test_other_weights_make_another_spec(inputs, tmp_path):
    write_encoder(tmp_path / "other", seed=1)
    here = make_recipe(inputs)
    other = here.encoder.model_copy(update={"model": str(tmp_path / "other")})
    found = describe(here.model_copy(update={"encoder": other}))
    assert found.encoder.weights_sha256 != describe(here).encoder.weights_sha256


@pytest.mark.parametrize("path", [("encoder", "weights_sha256"), ("image", "decoder"), ("codec", "version")])
def test_a_worker_of_another_spec_says_what_differs(inputs, tmp_path, path):
    recipe = make_recipe(inputs)
    storage = LocalStorage(tmp_path)
    wanted = describe(recipe)
    EncodeWorker(storage, recipe, wanted, Tables((), ())).build()
    worker = EncodeWorker(storage, recipe, change(wanted, path), Tables((), ()))
    with pytest.raises(MismatchError, match=rf"than those wanted: {'.'.join(path)} is \S.* wanted; install"):
        worker.build()
    assert not read_objects(tmp_path)


def test_all_differences_are_named():
    other = change(change(SPEC, ("aspect",)), ("video", "fps"))
    with pytest.raises(MismatchError, match=r"aspect is padx here and pad wanted; video\.fps is 1\.5 here"):
        check_same_spec(other, SPEC)


def test_differences_are_told_in_words():
    """A reducer that one side lacks is told by its name, and what is not set is called so."""
    reduced = SPEC.model_copy(update={"reducer": ReducerConfig(name="prumerge_plus")})
    other = SPEC.model_copy(update={"reducer": ReducerConfig(name="prumerge_plus", share=0.5)})
    assert SPEC.list_differences(reduced) == ["reducer.name is none here and prumerge_plus wanted"]
    assert reduced.list_differences(SPEC) == ["reducer.name is prumerge_plus here and none wanted"]
    assert reduced.list_differences(other) == ["reducer.share is 0.25 here and 0.5 wanted"]
    sampled = SPEC.model_copy(update={"video": SPEC.video.model_copy(update={"fps": None, "uniform": 8})})
    assert SPEC.list_differences(sampled) == [
        "video.fps is 1.0 here and not set wanted",
        "video.uniform is not set here and 8 wanted",
    ]


def test_settings_come_back_from_a_spec(inputs):
    recipe = make_recipe(inputs, views=CHOSEN)
    views, encoder = settings_of(describe(recipe), recipe.encoder.model)
    assert views == recipe.views
    again = recipe.model_copy(update={"encoder": encoder})
    assert describe(again) == describe(recipe)
