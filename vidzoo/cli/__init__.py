"""The ``vidzoo`` command: thin, each subcommand calls one public function.

Exit codes: 0 done, 1 it could not be done (one sentence on stderr says why), 2 the command line makes no sense,
130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
import warnings
from collections.abc import Sequence

from vidzoo import __version__
from vidzoo.cli import evaluate, finetune, info, listing, predict
from vidzoo.errors import VidzooError

__all__ = ["build_parser", "main"]


def build_parser() -> argparse.ArgumentParser:
    """The parser with all subcommands."""
    parser = argparse.ArgumentParser(
        prog="vidzoo", description="Video models: list them, try them, test them, teach them.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"vidzoo {__version__}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    subparsers = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND", required=True)
    for module in (predict, evaluate, finetune, listing, info):
        module.add_parser(subparsers)
    for subparser in subparsers.choices.values():
        # Also accepted after the command, without resetting what was said before it.
        subparser.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; never raises for what a user can mend."""
    try:
        args = build_parser().parse_args(argv)
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            return _guarded(args)
    except SystemExit as stop:  # argparse has said what is wrong
        return stop.code if isinstance(stop.code, int) else 2


def _guarded(args: argparse.Namespace) -> int:
    try:
        code: int = args.run(args)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        _complain("interrupted", args.debug)
        return 130
    except BrokenPipeError:
        # The reader has seen enough (`vidzoo list | head`); keep Python from complaining about it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except VidzooError as error:
        _complain(str(error), args.debug)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _complain(f"{where}{error.strerror or error}", args.debug)
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":
            raise
        _complain("the device has not enough memory: use a smaller --batch-size or --device cpu", args.debug)
    return 1


def _complain(message: str, debug: bool) -> None:
    if debug:
        traceback.print_exc()
    print(f"vidzoo: {' '.join(message.split())}", file=sys.stderr)


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: object = None,
    line: object = None,
) -> None:
    print(f"vidzoo: warning: {' '.join(str(message).split())}", file=sys.stderr)
