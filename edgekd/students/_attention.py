"""What students with attention ask of their options."""

from edgekd.errors import ConfigError


def divided(width: int, heads: int) -> None:
    """Raise ConfigError where heads are not all of one whole width."""
    if width % heads:
        raise ConfigError(f"{heads} heads do not divide a width of {width}", hint="change one of them")
