"""Range checks that name the option and its value."""

from tlcli.errors import ConfigError


def require(is_fine: bool, option: str, value: object, wanted: str) -> None:
    """Refuse the value of an option.

    Raises:
        ConfigError: If it is not fine.
    """
    if not is_fine:
        raise ConfigError(f"{option} must be {wanted}, not {value}.")
