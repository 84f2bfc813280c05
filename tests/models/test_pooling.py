import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tlcli.errors import ConfigError, ModelError
from tlcli.models.pooling import (
    POOLS,
    Layout,
    check_pool,
    layout_of,
    pooled,
    pooled_shape,
)

SQUARE = (224, 224)


@pytest.mark.parametrize(
    ("shape", "input_size", "prefix", "expected"),
    [
        ((2, 512), SQUARE, 0, (1, (), 0)),
        ((2, 512), SQUARE, 1, (1, (), 0)),
        ((2, 512, 7, 7), SQUARE, 0, (1, (2, 3), 0)),
        ((2, 7, 7, 512), SQUARE, 0, (3, (1, 2), 0)),
        ((2, 512, 1, 1), SQUARE, 0, (1, (2, 3), 0)),
        ((2, 1, 1, 512), SQUARE, 0, (3, (1, 2), 0)),
        ((2, 7, 7, 7), SQUARE, 0, (1, (2, 3), 0)),
        ((2, 16, 7, 5), (224, 160), 0, (1, (2, 3), 0)),
        ((2, 7, 5, 16), (224, 160), 0, (3, (1, 2), 0)),
        ((2, 5, 7, 16), (160, 224), 0, (3, (1, 2), 0)),
        ((2, 6, 7, 5), (224, 160), 0, (1, (2, 3), 0)),
        ((2, 197, 64), SQUARE, 1, (2, (1,), 1)),
        ((2, 198, 64), SQUARE, 2, (2, (1,), 2)),
        ((2, 196, 64), SQUARE, 0, (2, (1,), 0)),
        ((2, 196, 64), SQUARE, 1, (2, (1,), 0)),  # XCiT declares a token that joins later
        ((2, 50, 64), SQUARE, 1, (2, (1,), 1)),
        ((2, 71, 64), (224, 160), 1, (2, (1,), 1)),  # 14 x 5 is no grid of it; 71 is prime
        ((2, 141, 64), (224, 160), 1, (2, (1,), 1)),  # 14 x 10
        ((2, 140, 64), (224, 160), 1, (2, (1,), 0)),
        ((2, 1, 64), SQUARE, 1, (2, (1,), 0)),
    ],
)
def test_layout_of(
    shape: tuple[int, ...],
    input_size: tuple[int, int],
    prefix: int,
    expected: tuple[int, tuple[int, ...], int],
) -> None:
    found = layout_of(shape, input_size=input_size, prefix_tokens=prefix)
    assert (found.channel_axis, found.positions, found.prefix_tokens) == expected


def test_layout_of__cube_of_a_network_that_says_nhwc() -> None:
    found = layout_of((2, 7, 7, 7), input_size=SQUARE, prefix_tokens=0, is_nhwc=True)
    assert found == Layout(channel_axis=3, positions=(1, 2))
    clear = layout_of((2, 512, 7, 7), input_size=SQUARE, prefix_tokens=0, is_nhwc=True)
    assert clear == Layout(channel_axis=1, positions=(2, 3))


@given(
    height=st.integers(64, 512),
    width=st.integers(64, 512),
    stride=st.sampled_from([2, 4, 8, 16]),
    factor=st.integers(3, 50),
)
def test_layout_of__any_map_with_more_channels_than_rows_and_columns(
    height: int, width: int, stride: int, factor: int
) -> None:
    rows, columns = -(-height // stride), -(-width // stride)
    # As long as the ratio of channels to a side lies farther from the input's than rounding moves.
    channels = max(rows, columns) * factor * max(2, -(-max(height, width) // min(height, width)))
    shapes = {(2, channels, rows, columns): 1, (2, rows, columns, channels): 3}
    for shape, axis in shapes.items():
        found = layout_of(shape, input_size=(height, width), prefix_tokens=0)
        assert found.channel_axis == axis


@pytest.mark.parametrize("shape", [(2,), (2, 3, 4, 5, 6)])
def test_layout_of__neither_map_nor_tokens(shape: tuple[int, ...]) -> None:
    with pytest.raises(ModelError) as caught:
        layout_of(shape, input_size=SQUARE, prefix_tokens=0)
    assert str(caught.value) == (
        f"A layer's output of shape {shape} is neither a map, nor tokens, nor vectors. "
        "Choose another --layer."
    )


MAP = torch.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5).float()
TOKENS = torch.arange(2 * 6 * 3).reshape(2, 6, 3).float()
NCHW = Layout(channel_axis=1, positions=(2, 3))
NHWC = Layout(channel_axis=3, positions=(1, 2))
WITH_TWO_PREFIXES = Layout(channel_axis=2, positions=(1,), prefix_tokens=2)


@pytest.mark.parametrize(
    ("tensor", "layout", "pool", "expected"),
    [
        (MAP, NCHW, "avg", [[MAP[b, c].sum() / 20 for c in range(3)] for b in range(2)]),
        (MAP, NCHW, "max", [[MAP[b, c, 3, 4] for c in range(3)] for b in range(2)]),
        (MAP, NHWC, "avg", [[MAP[b, :, :, c].sum() / 12 for c in range(5)] for b in range(2)]),
        (TOKENS, WITH_TWO_PREFIXES, "avg", [[10.5, 11.5, 12.5], [28.5, 29.5, 30.5]]),
        (-TOKENS, WITH_TWO_PREFIXES, "max", [[-6, -7, -8], [-24.0, -25, -26]]),
        (TOKENS, WITH_TWO_PREFIXES, "cls", [[0, 1, 2], [18.0, 19, 20]]),
    ],
)
def test_pooled(
    tensor: torch.Tensor, layout: Layout, pool: str, expected: list[list[float]]
) -> None:
    torch.testing.assert_close(pooled(tensor, layout=layout, pool=pool), torch.tensor(expected))


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize(
    ("tensor", "layout"),
    [
        (MAP, NCHW),
        (TOKENS, WITH_TWO_PREFIXES),
        (TOKENS[:, 0], Layout(channel_axis=1, positions=())),
    ],
    ids=["map", "tokens", "vectors"],
)
def test_pooled__is_a_tensor_of_its_own_with_the_shape_foretold(
    tensor: torch.Tensor, layout: Layout, pool: str
) -> None:
    before = tensor.clone()
    result = pooled(tensor, layout=layout, pool=pool)
    assert tuple(result.shape[1:]) == pooled_shape(tensor.shape, layout=layout, pool=pool)
    result.add_(1)
    assert torch.equal(tensor, before)


def test_pooled__none_and_vectors_stay_as_they_are() -> None:
    assert torch.equal(pooled(MAP, layout=NCHW, pool="none"), MAP)
    vectors = Layout(channel_axis=1, positions=())
    assert torch.equal(pooled(MAP[:, :, 0, 0], layout=vectors, pool="max"), MAP[:, :, 0, 0])


def test_check_pool() -> None:
    for pool in (None, *POOLS):
        check_pool(pool, has_layers=True)
    check_pool(None, has_layers=False)
    with pytest.raises(
        ConfigError, match=r"--pool 'mean' is not known\. Use avg, cls, max, none\."
    ):
        check_pool("mean", has_layers=True)
    with pytest.raises(ConfigError, match=r"--pool avg works on --layer: the penultimate"):
        check_pool("avg", has_layers=False)
