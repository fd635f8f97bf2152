"""Columns made of flat buffers: the same as Arrow makes of the values."""

import json
import subprocess
import sys

import pyarrow
import pytest
from build_commands import environment
from hypothesis import given
from hypothesis import strategies as st

from pipelines.ingest.columns import list_column, repeat_value

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=9)
kinds_and_values = st.one_of(
    st.tuples(st.just(pyarrow.string()), st.lists(texts, max_size=6)),
    st.tuples(st.just(pyarrow.binary()), st.lists(st.binary(max_size=9), max_size=6)),
    st.tuples(st.just(pyarrow.large_binary()), st.lists(st.binary(max_size=9), max_size=6)),
    st.tuples(st.just(pyarrow.int8()), st.lists(st.integers(-(2**7), 2**7 - 1), max_size=6)),
    st.tuples(st.just(pyarrow.int32()), st.lists(st.integers(-(2**31), 2**31 - 1), max_size=6)),
    st.tuples(st.just(pyarrow.int64()), st.lists(st.integers(-(2**63), 2**63 - 1), max_size=6)),
    st.tuples(st.just(pyarrow.float64()), st.lists(st.floats(allow_nan=False), max_size=6)),
)


@given(kind_and_values=kinds_and_values)
def test_a_column_is_what_arrow_makes_of_the_values(kind_and_values):
    kind, values = kind_and_values
    column = list_column(kind, values)
    column.validate(full=True)
    assert column.equals(pyarrow.array(values, kind))


@pytest.mark.parametrize("count", [0, 1, 1000])
def test_a_repeated_value_is_a_column(count):
    for kind in (pyarrow.int8(), pyarrow.int32(), pyarrow.int64()):
        assert repeat_value(kind, 7, count).equals(pyarrow.array([7] * count, kind))


def test_what_is_no_number_of_its_size_is_refused():
    for values in ([2**31], ["1"], [1.5], [None]):
        with pytest.raises((TypeError, OverflowError)):
            list_column(pyarrow.int32(), values)


PROGRAM = """\
import sys
from infra.storage import open_storage
from pipelines.engine import SerialEngine
from pipelines.ingest.flow import ingest
from schemas.recipe import Recipe

done = ingest(Recipe.model_validate_json(sys.argv[1]), open_storage(sys.argv[2]), SerialEngine())
print("loaded", *sorted({"pandas"} & sys.modules.keys()))
"""


def test_no_stage_of_ingest_loads_pandas(tiny_recipe, tmp_path):
    values = tiny_recipe.model_dump(mode="json")
    for source in values["sources"]:
        source["deduplicate"] = True  # keeps raw rows, and writes duplicates
    words = [sys.executable, "-c", PROGRAM, json.dumps(values), str(tmp_path / "corpus")]
    done = subprocess.run(words, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["loaded"]


def test_who_reads_rows_loads_no_polars():
    words = "import pipelines.ingest.read, sys; print({'pandas', 'polars'} & sys.modules.keys())"
    done = subprocess.run(
        [sys.executable, "-c", words], env=environment(), capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["set()"]
