import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlcli.errors import ConfigError
from tlcli.results.toml_text import to_toml

SCALARS = (
    st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"]))
)
KEYS = st.text(st.characters(exclude_categories=["Cs"]))


@given(st.dictionaries(KEYS, SCALARS | st.lists(SCALARS)))
def test_to_toml__tomllib_reads_the_same_values(values: dict[str, object]) -> None:
    read = tomllib.loads(to_toml(values))
    assert read == values
    assert {k: type(v) for k, v in read.items()} == {k: type(v) for k, v in values.items()}


def test_to_toml__exact_text() -> None:
    values = {"lr": 1e-05, "backbone-lr": None, "unfreeze": ("layer4", "fc"), "amp": True, "a.b": 1}
    expected = 'lr = 1e-05\nunfreeze = ["layer4", "fc"]\namp = true\n"a.b" = 1\n'
    assert to_toml(values) == expected


@pytest.mark.parametrize("value", [{"nested": 1}, [[1]], [None], object()])
def test_to_toml__refuses_other_kinds(value: object) -> None:
    with pytest.raises(TypeError, match=r"config\.toml cannot hold size = "):
        to_toml({"size": value})  # type: ignore[dict-item]


def test_to_toml__text_that_is_not_unicode_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="of 'data' is not valid Unicode"):
        to_toml({"data": "caf\udce9"})
