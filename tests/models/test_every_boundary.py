"""The smallest model of every family of both sources, cut behind its frozen part."""

from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
from scripts import load_script
from torch import Tensor, nn

from tlcli.models.boundary import SplitNetwork, split_network
from tlcli.models.staged import StagedModel

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
KNOWN = {
    ("timm/gemma4_vit_167m", part): "its forward pass cannot be traced ('NoneType' object has"
    for part in ("last:1", "last:2", "half")
}
"""What `benchmarks/sweep_boundaries.py` finds and docs/boundaries.md names."""


@pytest.fixture(scope="module")
def sweep() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)  # it shares code with another
        return load_script(BENCHMARKS / "sweep_boundaries.py")


@pytest.mark.sweep
def test_every_boundary__halves_are_the_whole_but_for_what_is_known(sweep: ModuleType) -> None:
    names = sweep.smallest_of_each_family()
    assert len([name for name in names if name.startswith("timm/")]) >= 70

    found = [one for name in names for one in sweep.findings_of(name)]

    tried = {(one.model, one.part): one for one in found if one.result != "skipped"}
    assert len(tried) >= 3 * (len(names) - 2)
    assert {key for key, one in tried.items() if one.result != "equal"} == KNOWN.keys()
    assert all(tried[key].result == "not cut" for key in KNOWN)
    assert all(tried[key].detail.startswith(reason) for key, reason in KNOWN.items())


class Biased(nn.Module):
    """Moves outputs a little, or gradients only."""

    def __init__(self, tail: nn.Module, *, outputs: float, gradients: float) -> None:
        super().__init__()
        self.tail = tail
        self.outputs = outputs
        self.gradients = gradients

    def forward(self, *values: Tensor) -> Tensor:
        logits = self.tail(*values)
        unseen = (logits.detach() - logits) * self.gradients  # zeros
        return logits * (1 + self.outputs) + unseen


@pytest.mark.sweep
@pytest.mark.parametrize(
    ("outputs", "gradients", "result"),
    [(0, 0, "equal"), (1e-6, 0, "outputs differ"), (0, 1e-3, "gradients differ")],
)
def test_sweep__sees_what_is_wrong(
    sweep: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    outputs: float,
    gradients: float,
    result: str,
) -> None:
    """It would not be worth much if it passed everything."""

    def split_badly(model: StagedModel, *, example: Tensor) -> SplitNetwork:
        split = split_network(model, example=example)
        tail = Biased(split.tail, outputs=outputs, gradients=gradients)
        return replace(split, tail=tail)

    monkeypatch.setattr(sweep, "split_network", split_badly)

    found = sweep.findings_of("timm/test_resnet")

    assert [one.result for one in found] == [result] * 3


@pytest.mark.sweep
def test_sweep__goes_on_where_it_stopped(
    sweep: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = ["sweep", "timm/test_resnet", "--output", str(tmp_path / "boundaries.csv")]
    monkeypatch.setattr("sys.argv", command)
    sweep.main()
    first = capsys.readouterr().out
    monkeypatch.setattr(sweep, "findings_of", None)  # nothing is left to find

    sweep.main()

    assert capsys.readouterr().out == first
    assert first.splitlines() == [
        *(f"{part}: 1 of 1 are cut, 1 with equal gradients" for part in sweep.PARTS),
        "skipped: 0",
    ]
