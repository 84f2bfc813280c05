"""Range checks that name the option and its value."""

import re

from tlcli.errors import ConfigError

MAX_SEED = 2**64 - 1


def require(is_fine: bool, option: str, value: object, wanted: str) -> None:
    """Refuse the value of an option.

    Raises:
        ConfigError: If it is not fine.
    """
    if not is_fine:
        raise ConfigError(f"{option} must be {wanted}, not {value}.")


def require_seed(seed: int, *, option: str = "--seed") -> None:
    """Refuse a seed that random number generators do not take.

    Raises:
        ConfigError: If it is negative or of more than 64 bits.
    """
    require(seed >= 0, option, seed, "0 or more")
    require(seed <= MAX_SEED, option, seed, f"{MAX_SEED} (64 bits) at most")


def seconds_of(text: str, *, option: str) -> float:
    """Read a duration such as `90s`, `30m`, `2h` or `1h30m`.

    Raises:
        ConfigError: If it is none, or no time at all.
    """
    number = r"(\d+(?:\.\d+)?)"
    found = re.fullmatch(rf"(?:{number}h)?(?:{number}m)?(?:{number}s)?", text.strip())
    parts = found.groups(default="0") if found else ("0", "0", "0")
    seconds = sum(float(part) * unit for part, unit in zip(parts, (3600, 60, 1), strict=True))
    if seconds <= 0:
        raise ConfigError(
            f"{option} '{text}' is no duration: write 90s, 30m, 2h or 1h30m, above 0."
        )
    return seconds


_UNITS = {"": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_UNITS |= {"kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}


def bytes_of(text: str, *, option: str) -> int:
    """Read a size such as `500MB`, `20GB` or `1.5 TiB`.

    Raises:
        ConfigError: If it is none, or below 1.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]i?b)?", text.strip().lower())
    size = int(float(found[1]) * _UNITS[found[2] or ""]) if found else 0
    if size < 1:
        raise ConfigError(f"{option} '{text}' is no size: write 500MB, 20GB or 1.5TiB, above 0.")
    return size
