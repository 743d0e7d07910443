"""The command line; `experiments.cli:main` is the entry point of `smaug`."""

from experiments.cli.app import main

__all__ = ["main"]
