"""Settings of reducers, as a user writes them."""

from typing import get_args

import pytest

from operators.reducers import build_reducer
from schemas.configuration import parse_yaml
from schemas.errors import ConfigError
from schemas.reducer import ReducerConfig, ReducerName


def read(text: str) -> ReducerConfig:
    return parse_yaml(text, ReducerConfig, "reducer")


def test_a_name_is_enough() -> None:
    assert ReducerConfig.model_validate("prumerge") == ReducerConfig(name="prumerge")
    assert ReducerConfig().name == "query"
    assert read("{name: prumerge, merge: off}").merge is False


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{name: prumerge, tokens: 9}", "tokens: no setting of prumerge.*merge, neighbors, variant"),
        ("{name: all, merge: off}", "merge: no setting of all.*none"),
        ("{name: tome, token: 9}", "unknown key 'token', did you mean 'tokens'"),
        ("{name: prumerge_plus, variant: released, share: 0.5}", "chooses its own share"),
        ("{name: pruning}", "name"),
    ],
)
def test_foreign_settings_are_refused(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        read(text)


def test_a_dumped_configuration_reads_back() -> None:
    for name in ("query", "all", "tome", "prumerge", "perceiver"):
        config = ReducerConfig(name=name)
        assert ReducerConfig.model_validate(config.model_dump()) == config


def test_numbers_of_the_papers() -> None:
    assert [ReducerConfig(name=name).num_tokens for name in ("qformer", "perceiver", "tome")] == [32, 64, 144]
    assert [ReducerConfig(name=name).num_layers for name in ("qformer", "perceiver")] == [12, 6]


def test_who_needs_a_focus_is_told_alike() -> None:
    for name in get_args(ReducerName):
        config = ReducerConfig(name=name)
        if not config.is_trained:
            assert build_reducer(config).needs_focus == config.needs_focus, name
