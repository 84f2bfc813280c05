import pytest

from tlcli.backbones.pretraining import pretraining_of


@pytest.mark.parametrize(
    ("tag", "data"),
    [
        ("a1_in1k", "in1k"),
        ("augreg_in21k_ft_in1k", "in21k+in1k"),
        ("laion2b_ft_in12k_in1k", "laion2b+in12k+in1k"),
        ("fb_swsl_ig1b_ft_in1k", "ig1b+in1k"),
        ("mim_m38m_ft_in22k_in1k", "m38m+in22k+in1k"),
        ("ns_jft_in1k", "jft+in1k"),
        ("lvd142m", "lvd142m"),
        ("openai", "openai"),
        ("fb", None),
        ("", None),
    ],
)
def test_pretraining_of__tags_of_timm(tag: str, data: str | None) -> None:
    assert pretraining_of(tag) == data
