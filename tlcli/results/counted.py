"""Numbers of things in words: "1 shard", "2 shards"."""


def counted(number: int, one: str, many: str | None = None) -> str:
    """Return a number with the thing that is counted, in the plural unless it is 1.

    Args:
        number: How many.
        one: The thing in the singular.
        many: Its plural, where that is not the singular with an s.
    """
    return f"{number:,} {one if number == 1 else many or one + 's'}"
