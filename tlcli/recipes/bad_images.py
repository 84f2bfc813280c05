"""What a user can do about an image that cannot be decoded."""

from collections.abc import Iterator
from contextlib import contextmanager

from tlcli.errors import BadImageError


@contextmanager
def with_remedy() -> Iterator[None]:
    """Add the remedy to the error of an image that cannot be decoded.

    Raises:
        BadImageError: As it was raised inside, with what can be done about it.
    """
    try:
        yield
    except BadImageError as error:
        raise BadImageError(
            f"{error} Repair it, or leave such images out with --on-bad-image skip."
        ) from error
