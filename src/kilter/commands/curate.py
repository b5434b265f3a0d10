"""`kilter data curate`: rows through a list of steps, and why each dropped row was dropped."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

from kilter.commands import Arguments
from kilter.errors import UserError, nearest

KINDS = ("auto", "text", "prompt", "demonstration", "judgment")


def curate_arguments(parser: Arguments) -> None:
    parser.add_argument("file", metavar="FILE", help="rows to curate: prompts, demonstrations, judgments or texts")
    parser.add_argument(
        "--steps",
        metavar="STEPS",
        default="clean",
        help="a YAML file with `steps: [...]`, or settings that ship: clean, instructgpt (default: clean)",
    )
    parser.add_argument("--out", metavar="DIR", required=True, help="folder for kept.jsonl, drops.jsonl, curation.json")
    parser.add_argument(
        "--benchmark",
        metavar="FILE",
        action="append",
        default=[],
        dest="benchmarks",
        help="a benchmark that the step decontaminate checks against; may be given again",
    )
    parser.add_argument("--kind", metavar="KIND", default="auto", help=f"what a row is: {', '.join(KINDS)}")
    parser.add_argument("--processes", metavar="N", type=int, default=1, help="processes (default: 1)")
    parser.add_argument("--part", metavar="N", type=int, default=20_000, help="rows in one part (default: 20000)")
    parser.add_argument(
        "--max-rejects",
        metavar="X",
        type=float,
        default=0.01,
        help="share of unreadable rows above which it stops (default: 0.01)",
    )


def curate(args: argparse.Namespace) -> None:
    """Curate a file; cut off, the same command goes on where it was."""
    if args.kind not in KINDS:
        raise UserError(f"--kind {args.kind}: there is no such kind{nearest(args.kind, KINDS)}")
    for name in ("processes", "part"):
        if getattr(args, name) < 1:
            raise UserError(f"--{name} is {getattr(args, name)}, but must be at least 1")
    from kilter.data.curate import steps
    from kilter.data.curate.run import curate_file
    from kilter.runs import make_folder

    chosen = steps.parse(args.steps, args.benchmarks)
    if args.benchmarks and not any(s.name == "decontaminate" for s in chosen):
        raise UserError("--benchmark is given, but the steps hold no `decontaminate` that would check against it")
    out = make_folder(Path(args.out).expanduser())
    work = out / ".work"
    made = curate_file(
        Path(args.file).expanduser(),
        chosen,
        out,
        work,
        kind=args.kind,
        part=args.part,
        processes=args.processes,
        max_rejects=args.max_rejects,
    )
    shutil.rmtree(work)
    show(made)
    print(f"{made['kept']} of {made['rows']} rows kept: {out / 'kept.jsonl'}; why the rest went: {out / 'drops.jsonl'}")


def show(made: dict[str, Any]) -> None:
    """The waterfall as a table."""
    from rich.table import Table

    from kilter.terminal import console

    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for heading, side in (("step", "left"), ("rows", "right"), ("dropped", "right"), ("left", "right")):
        table.add_column(heading, justify=side)  # type: ignore[arg-type]
    table.add_column("why")
    for step in made["steps"]:
        told = [f"{n} {reason}" for reason, n in step["reasons"].items()]
        told += [f"({n} noted {reason})" for reason, n in step["notes"].items()]
        more = f", {len(told) - 4} more" if len(told) > 4 else ""
        figures = (str(step[k]) for k in ("entered", "dropped", "kept"))
        table.add_row(step["step"], *figures, ", ".join(told[:4]) + more)
    console().print(table)
    if made["rejected"]:
        console().print(f"{made['rejected']} rows could not be read: rejects.jsonl")
