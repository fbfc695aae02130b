"""The command line. Imports every room and is imported by none; loads torch only where a model is needed."""

from hf_dynasor.cli.main import build_parser, main

__all__ = ["build_parser", "main"]
