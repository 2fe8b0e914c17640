"""``vidzoo list``: the names of the zoo."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from vidzoo.cli.common import print_json

__all__ = ["add_parser", "run"]


def add_parser(subparsers: Any) -> None:
    """Declare the subcommand."""
    parser = subparsers.add_parser(
        "list", help="list the models", description="List the models, one per line.", allow_abbrev=False
    )
    parser.add_argument(
        "filter",
        metavar="FILTER",
        nargs="?",
        default="",
        help="part of a name, or a pattern such as 'gst_*r50*' (in quotes)",
    )
    parser.add_argument("--pretrained", action="store_true", help="only what has weights, each with its tag")
    parser.add_argument("--module", default="", metavar="M", help="only the models of one family, such as gst")
    parser.add_argument("--tags", action="store_true", help="every set of weights by itself, as name.tag")
    parser.add_argument("--json", action="store_true", help="a JSON list of names")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """List; 1 if nothing fits."""
    from vidzoo.errors import ConfigError, nearest
    from vidzoo.registry import list_models, list_modules

    families = {name.rpartition(".")[2] for name in list_modules()}
    if args.module and args.module not in families and args.module not in list_modules():
        raise ConfigError(f"there is no family {args.module!r}: {nearest(args.module, families)}")
    pattern = args.filter if any(sign in args.filter for sign in "*?[") or not args.filter else f"*{args.filter}*"
    names = list_models(
        pattern, module=args.module, pretrained=args.pretrained, include_tags=args.tags or args.pretrained
    )
    if args.json:
        print_json(names)
    elif names:
        print("\n".join(names))
    if not names:
        known = {name.partition(".")[0] for name in list_models()}
        hint = f": {nearest(args.filter, known)}" if args.filter else ""
        print(f"vidzoo: no model fits{' and has weights' if args.pretrained else ''}{hint}", file=sys.stderr)
    return 0 if names else 1
