"""The ``hardwood`` command: reads arguments, calls the package, shows what came of it. Decides nothing itself."""

from hardwood.cli.app import main

__all__ = ["main"]
