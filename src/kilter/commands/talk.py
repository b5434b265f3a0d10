"""Verbs to talk to checkpoints and to see the sandbox: chat, sandbox show, sandbox export."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from kilter.commands import Arguments
from kilter.errors import UserError, nearest


def chat_arguments(parser: Arguments) -> None:
    parser.add_argument(
        "checkpoints", metavar="CHECKPOINT", nargs="+", help="a Hugging Face folder, a stage of a run, or a hub id"
    )
    parser.add_argument("--system", metavar="TEXT", default="", help="a system message before the conversation")
    parser.add_argument("--temp", metavar="X", type=float, default=0.7, help="temperature; 0 is greedy (default: 0.7)")
    parser.add_argument("--max-new", metavar="N", type=int, default=256, help="longest answer in tokens (default: 256)")
    parser.add_argument("--seed", metavar="N", type=int, default=1, help="seed of the draws (default: 1)")


def chat(args: argparse.Namespace) -> None:
    """Talk to one checkpoint, or to two at once."""
    if len(args.checkpoints) > 2:
        raise UserError(f"chat takes one checkpoint or two, got {len(args.checkpoints)}")
    from kilter.chat import converse

    converse(args.checkpoints, system=args.system, temperature=args.temp, max_new=args.max_new, seed=args.seed)


def show_arguments(parser: Arguments) -> None:
    parser.add_argument("--n", metavar="N", type=int, default=3, help="prompts to print (default: 3)")
    parser.add_argument("--seed", metavar="N", type=int, default=1, help="seed of the world (default: 1)")
    parser.add_argument(
        "--split",
        metavar="SPLIT",
        default="eval",
        help="sft, rank, rl, eval, test-unsafe or test-lookalike (default: eval)",
    )


def sandbox_show(args: argparse.Namespace) -> None:
    """Print a few prompts with answers and what the oracle thinks of them."""
    from kilter.sandbox.show import show

    print(show(args.n, args.seed, args.split))


KINDS = ("prompts", "demos", "rankings", "corpus")


def export_arguments(parser: Arguments) -> None:
    parser.add_argument("--kind", metavar="KIND", required=True, help=f"what to write: {', '.join(KINDS)}")
    parser.add_argument("--n", metavar="N", type=int, required=True, help="rows")
    parser.add_argument("--out", metavar="FILE", required=True, help="the JSONL file to write")
    parser.add_argument("--seed", metavar="N", type=int, default=1, help="seed of the world (default: 1)")


def sandbox_export(args: argparse.Namespace) -> None:
    """Write rows of the sandbox as JSONL."""
    if args.kind not in KINDS:
        raise UserError(f"--kind {args.kind}: there is no such kind{nearest(args.kind, KINDS)}")
    if args.n < 1:
        raise UserError(f"--n is {args.n}, but must be at least 1")
    out = Path(args.out).expanduser()
    if not out.parent.is_dir() or not os.access(out.parent, os.W_OK):
        raise UserError(f"can't write {out}: {out.parent} is not a folder that can be written to")
    from kilter.sandbox.show import export

    count = export(args.kind, args.n, args.seed, out)
    print(f"{count} rows written to {out}", file=sys.stderr)
