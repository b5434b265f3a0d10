"""Verbs over recipes and their runs: run, demo, report, compare, recipes, init."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from kilter.commands import Arguments, parse_seeds, parse_settings
from kilter.errors import UserError, nearest


def run_arguments(parser: Arguments) -> None:
    parser.add_argument("recipe", metavar="RECIPE", help="a YAML file, or the name of a shipped recipe")
    parser.add_argument("--runs", metavar="DIR", default="runs", help="where run directories live (default: runs)")
    parser.add_argument(
        "--set",
        metavar="STAGE.FIELD=VALUE",
        action="append",
        default=[],
        dest="settings",
        help="change one field of one stage, or `seed` or `threads`; may be given again",
    )
    parser.add_argument("--from", metavar="STAGE", dest="from_stage", help="do this stage and all after it anew")
    parser.add_argument("--until", metavar="STAGE", help="stop after this stage")
    parser.add_argument("--no-doctor", action="store_true", help="train without the checks before each stage")
    parser.add_argument(
        "--name", metavar="NAME", help="name of the run directory (default: the recipe's name and its changes)"
    )
    parser.add_argument(
        "--seeds", metavar="1,2,3", help="one run for each seed, named NAME-seed<n>, and a table over them"
    )


def run(args: argparse.Namespace) -> None:
    """Run a recipe once, or once for each seed."""
    settings = parse_settings(args.settings)
    where = {"runs_dir": args.runs, "from_stage": args.from_stage, "until": args.until, "doctor": not args.no_doctor}
    if not args.seeds:
        run_once(args.recipe, set=settings, name=args.name, **where)
        return
    seeds = parse_seeds(args.seeds)
    if "seed" in settings:
        raise UserError("--seeds and --set seed=... can't both be given")
    from kilter import recipes, terminal
    from kilter.pipeline import variant_name

    name = args.name or variant_name(recipes.load(args.recipe, settings))
    found = {
        seed: run_once(args.recipe, set={**settings, "seed": seed}, name=f"{name}-seed{seed}", **where)
        for seed in seeds
    }
    terminal.show_seeds({seed: one.summary for seed, one in found.items()})


def run_once(recipe: str, **given: Any) -> Any:
    """One run with its table and its report; returns the run."""
    from kilter import pipeline, terminal

    done = pipeline.run(recipe, **given)
    terminal.show_run(done)
    print(f"report: {done.report}")
    return done


def write_report(folder: Path) -> Path:
    """The run's report.html, made from its files alone."""
    from kilter.report import write

    return Path(write(folder))


def demo_arguments(parser: Arguments) -> None:
    parser.add_argument(
        "--you", action="store_true", help="choose between answers yourself: your choices join the training"
    )
    parser.add_argument(
        "--pairs", metavar="N", type=int, default=20, help="pairs to choose from with --you (default: 20)"
    )
    parser.add_argument("--runs", metavar="DIR", default="runs", help="where run directories live (default: runs)")


def demo(args: argparse.Namespace) -> None:
    """The sandbox recipe from end to end, or up to the point where a person chooses."""
    if not args.you:
        run_once("sandbox", runs_dir=args.runs)
        return
    if args.pairs < 1:
        raise UserError(f"--pairs is {args.pairs}, but must be at least 1")
    from kilter import pipeline
    from kilter.feedback import taste, you

    done = pipeline.run("sandbox", runs_dir=args.runs, until="collect")
    summary = you.play(done.folder, args.pairs, pipeline.train_one)
    if summary:
        print("\n".join(taste.lines(summary)))
        print(f"\ntalk to it: kilter chat {done.folder / 'you' / 'model'} {done.folder / 'sft' / 'model'}")
        print(f"report: {write_report(done.folder)}")


def report_arguments(parser: Arguments) -> None:
    parser.add_argument("run", metavar="RUN", help="a run directory, or the name of one")
    parser.add_argument("--runs", metavar="DIR", default="runs", help="where run directories live (default: runs)")


def report(args: argparse.Namespace) -> None:
    """Write report.html and print where it is."""
    from kilter.pipeline import run_folder

    print(write_report(run_folder(args.run, args.runs)))


def compare_arguments(parser: Arguments) -> None:
    parser.add_argument(
        "targets", metavar="RUN", nargs="+", help="a run directory or its name, or RUN:STAGE for one model of it"
    )
    parser.add_argument("--runs", metavar="DIR", default="runs", help="where run directories live (default: runs)")
    parser.add_argument(
        "--price",
        metavar="KIND=COST",
        action="append",
        default=[],
        dest="prices",
        help="what one ranking, comparison, demonstration, label or reward costs; may be given again",
    )
    parser.add_argument(
        "--out", metavar="FILE", default="compare.html", help="where the page goes (default: compare.html)"
    )
    parser.add_argument("--json", action="store_true", help="print everything as JSON instead, and write no page")


def compare(args: argparse.Namespace) -> None:
    """Methods of finished runs side by side: a table, and one page."""
    from kilter import compare as room

    found = room.compare(args.targets, args.runs, room.parse_prices(args.prices))
    if args.json:
        import json

        from kilter.runs import finite

        print(json.dumps(finite(room.plain(found)), indent=1, ensure_ascii=False))
        return
    from kilter.terminal import show_comparison

    show_comparison(found)
    print(f"page: {room.write(found, args.out)}")


def recipes_arguments(parser: Arguments) -> None:
    return


def list_recipes(args: argparse.Namespace) -> None:
    """Names of the shipped recipes and what each is about."""
    from kilter import config, recipes

    for name, path in recipes.shipped().items():
        about = config.load_yaml(path.read_text(encoding="utf-8"), str(path)).get("about", "")
        print(f"{name:<16} {about}")
    print("\nkilter run NAME runs one; kilter init NAME writes it into this folder, to edit")


def init_arguments(parser: Arguments) -> None:
    parser.add_argument("name", metavar="NAME", help="a shipped recipe (kilter recipes lists them)")


def init(args: argparse.Namespace) -> None:
    """Write a shipped recipe into the current folder; a file that stands there is never overwritten."""
    from kilter import recipes

    known = recipes.shipped()
    if args.name not in known:
        raise UserError(f"no shipped recipe {args.name!r}{nearest(args.name, known)}")
    target = Path(f"{args.name}.yaml")
    try:
        with open(target, "x", encoding="utf-8") as out:
            out.write(known[args.name].read_text(encoding="utf-8"))
    except FileExistsError:
        raise UserError(
            f"{target} exists already and is left as it is; move it away, or run it: kilter run {target}"
        ) from None
    print(f"{target} written; edit it, then: kilter run {target}")
