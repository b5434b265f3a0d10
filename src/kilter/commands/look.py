"""Verbs that look before training: doctor and plan."""

from __future__ import annotations

import argparse

from kilter.commands import Arguments, parse_settings
from kilter.errors import UserError


def doctor_arguments(parser: Arguments) -> None:
    parser.add_argument(
        "target", metavar="TARGET", help="a recipe (or a run's folder), a model's folder, or a JSONL file of rows"
    )
    parser.add_argument("--kind", metavar="KIND", help="what the rows are (default: seen from them)")
    parser.add_argument(
        "--model", "--tokenizer", metavar="FOLDER", dest="model", help="the model that the rows are for"
    )
    parser.add_argument("--rows", metavar="N", type=int, default=3, help="rows to show of each stage (default: 3)")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.add_argument("--runs", metavar="DIR", default="runs", help="where a recipe's runs live (default: runs)")
    parser.add_argument("--name", metavar="NAME", help="the run directory of a recipe (as for kilter run)")
    parser.add_argument(
        "--set", metavar="STAGE.FIELD=VALUE", action="append", default=[], dest="settings", help="as for kilter run"
    )


def doctor(args: argparse.Namespace) -> None:
    """Examine a recipe, a checkpoint or rows; exit code 1 when something fails."""
    if args.rows < 0:
        raise UserError(f"--rows is {args.rows}, but must not be below 0")
    settings = parse_settings(args.settings)
    from kilter.doctor.show import show
    from kilter.doctor.targets import examine
    from kilter.terminal import console

    found = examine(
        args.target,
        kind=args.kind,
        model=args.model,
        shown=args.rows,
        runs_dir=args.runs,
        name=args.name,
        settings=settings,
    )
    if args.json:
        import json

        print(json.dumps(found.plain(), indent=1, ensure_ascii=False))
    else:
        show(found, console())
    if found.plain()["worst"] == "fail":
        raise SystemExit(1)


def plan_arguments(parser: Arguments) -> None:
    parser.add_argument("recipe", metavar="RECIPE", help="a YAML file, or the name of a shipped recipe")
    parser.add_argument(
        "--gpu",
        metavar="GIB",
        type=float,
        help="memory of the GPU to plan for (default: this machine's GPU, or its RAM)",
    )
    parser.add_argument(
        "--flops", metavar="X", type=float, help="operations a second, e.g. 1e14 (default: measured on this machine)"
    )
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.add_argument(
        "--set", metavar="STAGE.FIELD=VALUE", action="append", default=[], dest="settings", help="as for kilter run"
    )


def plan(args: argparse.Namespace) -> None:
    """Print what every stage will need; exit code 1 when one does not fit."""
    for name, value in (("--gpu", args.gpu), ("--flops", args.flops)):
        if value is not None and not 0 < value < float("inf"):
            raise UserError(f"{name} is {value:g}, but must be above 0")
    settings = parse_settings(args.settings)
    from kilter.plan.show import make, show
    from kilter.terminal import console

    found = make(args.recipe, settings, args.gpu, args.flops)
    if args.json:
        import json

        print(json.dumps(found, indent=1, ensure_ascii=False))
    else:
        show(found, console())
    if not found["fits"]:
        raise SystemExit(1)
