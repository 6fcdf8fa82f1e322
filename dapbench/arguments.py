"""Command lines that are not Hydra's."""

import argparse
from collections.abc import Iterable
from typing import NoReturn

from dapbench.errors import UserError


class Parser(argparse.ArgumentParser):
    """A parser whose complaints are a UserError."""

    def error(self, message: str) -> NoReturn:
        """Raises a UserError that names the bad argument."""
        raise UserError(f"{message} ({self.prog} --help explains it)")


def key_values(arguments: Iterable[str], **keys: str) -> dict[str, str]:
    """Arguments of the form key=value.

    Args:
        keys: each key that may be given, and what stands for its value in a message.
    """
    given = {}
    for argument in arguments:
        key, equals, given[key] = argument.partition("=")
        if not equals or key not in keys:
            valid = ", ".join(f"{name}={value}" for name, value in keys.items())
            raise UserError(f"'{argument}' is not one of {valid}")
    return given
