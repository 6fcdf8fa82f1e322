"""Command lines that are not Hydra's."""

import argparse
from typing import NoReturn

from dapbench.errors import UserError


class Parser(argparse.ArgumentParser):
    """A parser whose complaints are a UserError."""

    def error(self, message: str) -> NoReturn:
        """Raises a UserError that names the bad argument."""
        raise UserError(f"{message} ({self.prog} --help explains it)")
