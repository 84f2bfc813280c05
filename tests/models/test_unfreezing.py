import string
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlcli.backbones.stages import HEAD
from tlcli.errors import ConfigError
from tlcli.models.unfreezing import (
    Phase,
    holes,
    match_stages,
    parse_schedule,
    parse_unfreeze,
    phase_of,
)

RESNET = ("conv1", "layer1", "layer2", "layer3", "layer4", "head")
VIT = ("patch_embed", *(f"blocks.{i}" for i in range(12)), "head")


@pytest.mark.parametrize(
    ("text", "stages", "trained"),
    [
        ("head", RESNET, ("head",)),
        ("all", RESNET, RESNET),
        ("layer4", RESNET, ("layer4", "head")),
        ("head,layer4", RESNET, ("layer4", "head")),
        ("layer4,layer2", RESNET, ("layer2", "layer4", "head")),
        (" layer3 , layer4 ", RESNET, ("layer3", "layer4", "head")),
        ("layer?", RESNET, ("layer1", "layer2", "layer3", "layer4", "head")),
        ("layer[34]", RESNET, ("layer3", "layer4", "head")),
        ("*", RESNET, RESNET),
        ("conv1,all", RESNET, RESNET),
        ("last:1", RESNET, ("layer4", "head")),
        ("last:2", RESNET, ("layer3", "layer4", "head")),
        ("last:5", RESNET, RESNET),
        ("last:1,conv1", RESNET, ("conv1", "layer4", "head")),
        ("blocks.10,blocks.11", VIT, ("blocks.10", "blocks.11", "head")),
        ("blocks.1", VIT, ("blocks.1", "head")),
        ("blocks.1?", VIT, ("blocks.10", "blocks.11", "head")),
        ("last:12", VIT, VIT[1:]),
        ("last:13", VIT, VIT),
    ],
)
def test_parse_unfreeze(text: str, stages: tuple[str, ...], trained: tuple[str, ...]) -> None:
    assert parse_unfreeze(text, stages=stages) == (Phase(start=0, trained=trained),)


@pytest.mark.parametrize(
    ("text", "named", "hint"),
    [
        ("layer5", "layer5", " Did you mean 'layer4'?"),
        ("layer4.1", "layer4.1", " Did you mean 'layer4'?"),
        ("layer4.1.conv2", "layer4.1.conv2", " Did you mean 'layer4'?"),
        ("layer1,xyz", "xyz", ""),
        ("Layer1", "Layer1", " Did you mean 'layer1'?"),
        ("", "", ""),
        ("head,", "", ""),
        (",", "", ""),
        ("block*", "block*", ""),
        ("lastly:2", "lastly:2", ""),
        ("fc", "fc", ""),
    ],
)
def test_parse_unfreeze__no_such_stage(text: str, named: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_unfreeze(text, stages=RESNET)
    assert str(caught.value) == (
        f"--unfreeze '{named}' matches no stage of this model.{hint} "
        "Stages: conv1, layer1, layer2, layer3, layer4, head; also all, last:N and globs."
    )


def test_parse_unfreeze__a_module_inside_a_stage_hints_at_that_stage() -> None:
    with pytest.raises(ConfigError, match=r"'blocks\.11\.attn' .* Did you mean 'blocks\.11'\?"):
        parse_unfreeze("blocks.11.attn", stages=VIT)


@pytest.mark.parametrize("count", ["0", "6", "-1", "", "two", "1.5", "²"])
def test_parse_unfreeze__last_with_a_wrong_number(count: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_unfreeze(f"last:{count}", stages=RESNET)
    assert str(caught.value) == (
        f"--unfreeze 'last:{count}': the model has 5 stages before its head; use last:1 to last:5."
    )


def phases(text: str, *, epochs: int = 10) -> list[tuple[int, tuple[str, ...]]]:
    found = parse_schedule(text, stages=RESNET, epochs=epochs)
    return [(phase.start, phase.trained) for phase in found]


@pytest.mark.parametrize(
    "text",
    [
        "0:head,3:layer4,layer3,6:all",
        " 0:head , 3:layer4 , layer3 , 6:all ",
        "0:head,3:last:2,6:*",
        "3:layer[34],6:conv1,layer1,layer2",
    ],
)
def test_parse_schedule__lists_inside(text: str) -> None:
    assert phases(text) == [
        (0, ("head",)),
        (3, ("layer3", "layer4", "head")),
        (6, RESNET),
    ]


def test_parse_schedule__names_the_stages_that_join() -> None:
    assert phases("0:head,1:layer4,2:layer3") == [
        (0, ("head",)),
        (1, ("layer4", "head")),
        (2, ("layer3", "layer4", "head")),
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0:head", [(0, ("head",))]),
        ("0:all", [(0, RESNET)]),
        ("0:layer4", [(0, ("layer4", "head"))]),
        ("2:all", [(0, ("head",)), (2, RESNET)]),
        ("9:layer4", [(0, ("head",)), (9, ("layer4", "head"))]),
        ("0:conv1,5:last:1", [(0, ("conv1", "head")), (5, ("conv1", "layer4", "head"))]),
    ],
)
def test_parse_schedule__first_phase(text: str, expected: list[tuple[int, object]]) -> None:
    assert phases(text) == expected


@pytest.mark.parametrize(
    ("text", "epochs", "starts"),
    [
        ("gradual:3", 10, [0, 3, 6, 9]),
        ("gradual:3", 9, [0, 3, 6]),
        ("gradual:3", 4, [0, 3]),
        ("gradual:1", 100, [0, 1, 2, 3, 4, 5]),
        ("gradual:20", 100, [0, 20, 40, 60, 80]),
    ],
)
def test_parse_schedule__gradual(text: str, epochs: int, starts: list[int]) -> None:
    expected = [(start, RESNET[5 - index :]) for index, start in enumerate(starts)]
    assert phases(text, epochs=epochs) == expected


@pytest.mark.parametrize("every", ["0", "", "-3", "two", "1.5", "3,6:all", "²"])
def test_parse_schedule__gradual_without_a_number(every: str) -> None:
    with pytest.raises(ConfigError) as caught:
        phases(f"gradual:{every}")
    assert str(caught.value) == (
        f"--schedule 'gradual:{every}' needs a number of epochs, for example 'gradual:3'."
    )


def test_parse_schedule__gradual_too_slow() -> None:
    with pytest.raises(ConfigError) as caught:
        phases("gradual:10")
    assert str(caught.value) == "--schedule 'gradual:10' opens nothing within --epochs 10."


@pytest.mark.parametrize(
    ("text", "epoch"),
    [
        ("0:head,10:layer4", 10),
        ("0:head,99:layer4", 99),
        ("10:head", 10),
        ("0:head,6:layer4,3:layer3", 3),
        ("0:head,3:layer4,3:layer3", 3),
        ("0:head,0:layer4", 0),
    ],
)
def test_parse_schedule__epoch_too_late_or_not_increasing(text: str, epoch: int) -> None:
    with pytest.raises(ConfigError) as caught:
        phases(text)
    assert str(caught.value) == (
        f"--schedule '{text}': epoch {epoch} must be below --epochs (10) "
        "and above the one before it."
    )


@pytest.mark.parametrize(
    ("text", "patterns", "start"),
    [
        ("0:head,3:head", "head", 3),
        ("3:head", "head", 3),
        ("0:all,3:layer4", "layer4", 3),
        ("0:head,3:layer4,6:layer4,head", "layer4,head", 6),
        ("0:layer3,layer4,2:last:2", "last:2", 2),
    ],
)
def test_parse_schedule__opens_nothing_new(text: str, patterns: str, start: int) -> None:
    with pytest.raises(ConfigError) as caught:
        phases(text)
    assert str(caught.value) == (
        f"--schedule '{text}': '{patterns}' after {start} epochs opens nothing new."
    )


@pytest.mark.parametrize(
    ("text", "entry"),
    [
        ("", ""),
        ("layer4", "layer4"),
        ("head,3:layer4", "head"),
        ("0:", "0:"),
        ("0:head,3:", "3:"),
        ("0:head,,6:all", ""),
        ("0:head,3:layer4,", ""),
        ("-1:head", "-1:head"),
        (":head", ":head"),
        ("²:head", "²:head"),
    ],
)
def test_parse_schedule__not_understood(text: str, entry: str) -> None:
    with pytest.raises(ConfigError) as caught:
        phases(text)
    assert str(caught.value) == (
        f"--schedule '{text}' is not understood at '{entry}'. Write EPOCH:STAGES, "
        "for example '0:head,3:layer4,6:all', or 'gradual:3'."
    )


@pytest.mark.parametrize("text", ["0:head,3:layer4.1", "0:head,3:layer4,layer4.1"])
def test_parse_schedule__no_such_stage(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        phases(text)
    assert str(caught.value) == (
        "--schedule 'layer4.1' matches no stage of this model. Did you mean 'layer4'? "
        "Stages: conv1, layer1, layer2, layer3, layer4, head; also all, last:N and globs."
    )


@pytest.mark.parametrize(
    ("epoch", "phase"), [(0, 0), (2, 0), (3, 1), (5, 1), (6, 2), (9, 2), (100, 2)]
)
def test_phase_of(epoch: int, phase: int) -> None:
    found = parse_schedule("0:head,3:layer4,6:all", stages=RESNET, epochs=10)
    assert phase_of(epoch, found) == phase


@pytest.mark.parametrize(
    ("trained", "expected"),
    [
        (("head",), ()),
        (("layer4", "head"), ()),
        (RESNET, ()),
        (("layer2", "layer4", "head"), ("layer3",)),
        (("conv1", "head"), ("layer1", "layer2", "layer3", "layer4")),
    ],
)
def test_holes(trained: tuple[str, ...], expected: tuple[str, ...]) -> None:
    assert holes(trained, stages=RESNET) == expected


stage_names = st.lists(
    st.text(string.ascii_lowercase + string.digits + "_.", min_size=1, max_size=8).filter(
        lambda name: name not in (HEAD, "all")
    ),
    min_size=1,
    max_size=8,
    unique=True,
).map(lambda names: (*names, HEAD))


@st.composite
def schedules(draw: st.DrawFn) -> tuple[str, tuple[str, ...], int]:
    """A schedule that opens something new in each phase, its stages, and the epochs."""
    stages = draw(stage_names)
    body = draw(st.permutations(stages[:-1]))
    starts = sorted(draw(st.sets(st.integers(0, 30), min_size=1, max_size=len(body))))
    cuts = sorted(draw(st.sets(st.integers(1, len(body)), max_size=len(starts) - 1)))
    edges = [0, *cuts][: len(starts)]
    groups = [body[a:b] for a, b in zip(edges, [*edges[1:], len(body)], strict=True) if body[a:b]]
    entries = [f"{start}:{','.join(group)}" for start, group in zip(starts, groups, strict=False)]
    return ",".join(entries), stages, 31


@given(schedules())
def test_parse_schedule__trained_sets_grow_in_order_and_hold_the_head(
    case: tuple[str, tuple[str, ...], int],
) -> None:
    text, stages, epochs = case
    found = parse_schedule(text, stages=stages, epochs=epochs)
    assert found[0].start == 0
    starts = [phase.start for phase in found]
    assert starts == sorted(set(starts))
    assert {int(entry.partition(":")[0]) for entry in text.split(",") if ":" in entry} | {0} == set(
        starts
    )
    for phase in found:
        assert phase.trained[-1] == HEAD
        assert list(phase.trained) == [name for name in stages if name in phase.trained]
    for earlier, later in pairwise(found):
        assert set(earlier.trained) < set(later.trained)
    named = {part.rpartition(":")[2] for part in text.split(",")}
    assert set(found[-1].trained) == named | {HEAD}


@given(st.text(string.printable + "²٣", max_size=20))
def test_parse__any_text_is_understood_or_refused(text: str) -> None:
    for parse in (
        lambda: parse_unfreeze(text, stages=RESNET),
        lambda: parse_schedule(text, stages=RESNET, epochs=5),
    ):
        try:
            found = parse()
        except ConfigError:
            continue
        assert all(phase.trained[-1] == HEAD for phase in found)


def test_match_stages__without_the_head_where_it_is_no_choice() -> None:
    body = RESNET[:-1]
    found = match_stages(["all"], stages=RESNET, choices=body, option="--layer")
    assert found == set(body)
    found = match_stages(["last:2", "conv1"], stages=RESNET, choices=body, option="--layer")
    assert found == {"layer3", "layer4", "conv1"}
    with pytest.raises(ConfigError) as caught:
        match_stages(["head"], stages=RESNET, choices=body, option="--layer")
    assert str(caught.value) == (
        "--layer 'head' matches no stage of this model. "
        "Stages: conv1, layer1, layer2, layer3, layer4; also all, last:N and globs."
    )
