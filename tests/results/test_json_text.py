import json
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest

from tlcli.results.json_text import to_json_text, without_nan


def test_without_nan__replaces_at_every_depth() -> None:
    values = {"a": float("nan"), "b": [1.5, float("inf")], "c": {"d": (float("-inf"), 2)}}
    assert without_nan(values) == {"a": None, "b": [1.5, None], "c": {"d": [None, 2]}}


def test_without_nan__numpy_scalars_become_python_numbers() -> None:
    plain = without_nan([np.float32(0.5), np.float64("nan"), np.int64(3), np.bool_(True)])
    assert plain == [0.5, None, 3, True]
    assert [type(value) for value in plain] == [float, type(None), int, bool]


def test_to_json_text__is_standard_json() -> None:
    text = to_json_text(MappingProxyType({"naïve": float("nan"), "n": 1}))
    assert text == '{\n  "naïve": null,\n  "n": 1\n}\n'
    assert json.loads(text) == {"naïve": None, "n": 1}


def test_to_json_text__refuses_what_is_not_plain() -> None:
    with pytest.raises(TypeError, match="not JSON serializable"):
        to_json_text({"path": Path("x")})
