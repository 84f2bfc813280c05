"""Which data weights were trained on, read from their tag."""

import re

_DATA_SETS = (
    r"in\d+k|imagenet\d+k|cc12m|cc3m|datacompxl|dfn2b|dfn5b|ig1b|inat21|jft300m|jft|laion2b|laion400m|"
    r"laiona|lvd\d+m|m30m|m38m|merged2b|metaclip\w*|openai|datacomp1b|dfndr2b|inw21k|sat493m|sam|"
    r"sa1b|tencent|webli|yfcc\d*m"
)
_NAMED = re.compile(rf"(?:^|_)(?:({_DATA_SETS}))(?=_|$)")


def pretraining_of(tag: str) -> str | None:
    """Return the data sets that a tag of timm names, in its order: `in22k+in1k`.

    None if it names none.
    """
    found = _NAMED.findall(tag.replace("_ft_", "_"))
    return "+".join(dict.fromkeys(found)) or None
