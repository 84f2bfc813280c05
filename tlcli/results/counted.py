"""Numbers of things in words: "1 shard", "2 shards", "1.5 MB"."""

_UNITS = (("GB", 10**9), ("MB", 10**6), ("KB", 10**3))


def counted(number: int, one: str, many: str | None = None) -> str:
    """Return a number with the thing that is counted, in the plural unless it is 1.

    Args:
        number: How many.
        one: The thing in the singular.
        many: Its plural, where that is not the singular with an s.
    """
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def size_text(size: int) -> str:
    """Return a number of bytes in the largest unit of which there is one: "640 bytes", "2.5 GB"."""
    for unit, one in _UNITS:
        if size >= one:
            number = f"{size / one:,.1f}" if size < 99.95 * one else f"{size / one:,.0f}"
            return f"{number.removesuffix('.0')} {unit}"
    return counted(size, "byte")
