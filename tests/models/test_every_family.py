"""The smallest model of every family of both sources: stages, head, freezing, training."""

from pathlib import Path
from types import ModuleType

import pytest
from scripts import load_script

ROOT = Path(__file__).resolve().parents[2]
KNOWN = {
    "timm/efficientvim_m1": "order:",  # closing norms of all stages lie beside the stages
    "timm/hrnet_w18_small": "order:",  # the last modules of its branches run in turn
}
"""What `benchmarks/sweep_models.py` finds and docs/models.md names."""


@pytest.fixture(scope="module")
def sweep() -> ModuleType:
    return load_script(ROOT / "benchmarks" / "sweep_models.py")


@pytest.mark.sweep
def test_every_family__works_but_for_what_is_known(sweep: ModuleType) -> None:
    names = sweep.smallest_of_each_family()
    assert len([name for name in names if name.startswith("timm/")]) >= 70

    found = {name: problems for name in names if (problems := sweep.problems_of(name))}

    assert {name: problems[0].split()[0] for name, problems in found.items()} == KNOWN


@pytest.mark.sweep
def test_sweep__sees_what_is_wrong(sweep: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would not be worth much if it passed everything."""
    assert sweep.problems_of("timm/test_resnet") == []
    monkeypatch.setattr(sweep, "replace_heads", lambda *_, **__: None)
    assert sweep.problems_of("timm/test_resnet")[0].startswith("head: logits have the shapes")


@pytest.mark.sweep
def test_every_family__trains_in_its_memory_format() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "benchmarks")  # it shares code with the other
        training = load_script(ROOT / "benchmarks" / "sweep_training.py")
    names = [name for name in training.smallest_of_each_family() if training.is_small(name)]
    assert len(names) > 70

    found = {name: end for name in names if (end := training.end_of(name, is_plain=False))}

    assert found == {}
    unsafe = ("timm/fastvit_t8", "timm/gernet_s", "timm/mobileone_s0")
    ends = [training.end_of(name, is_plain=True) for name in unsafe]
    assert any(end.startswith("SIG") for end in ends)  # not every damage is tripped over
