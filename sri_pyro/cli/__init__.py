"""The command line: every command is a few lines around one call of ``sri_pyro.config``."""

from sri_pyro.cli.app import main

__all__ = ["main"]
