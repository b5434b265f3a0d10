"""What each verb of the command line takes and does; torch is imported only once there is something to compute."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kilter.errors import UserError, nearest

Arguments = argparse.ArgumentParser


def parse_value(text: str) -> Any:
    """A value from the command line, read as a YAML scalar: 3, 1e-4, true, null, text, [1, 2]."""
    import yaml

    if not text:
        return ""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(
            f"value {text!r} can't be read ({str(error).splitlines()[0]}); quote it if it is text"
        ) from error


def parse_settings(given: Sequence[str]) -> dict[str, Any]:
    """`--set stage.key=value`, as often as given; the same key twice is refused."""
    found: dict[str, Any] = {}
    for item in given:
        key, equals, value = item.partition("=")
        if not equals or not key:
            raise UserError(f"--set {item}: give stage.field=value, e.g. --set ppo.steps=50, or seed=2")
        if key in found:
            raise UserError(f"--set {key} is given twice")
        found[key] = parse_value(value)
    return found


def parse_seeds(text: str) -> list[int]:
    """`1,2,3` as distinct whole numbers."""
    try:
        seeds = [int(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"--seeds {text}: give whole numbers with commas between, e.g. --seeds 1,2,3") from None
    if len(set(seeds)) != len(seeds):
        raise UserError(f"--seeds {text}: a seed is given twice")
    return seeds


# --- run, demo, report ------------------------------------------------------------------------------------------------


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


# --- recipes ----------------------------------------------------------------------------------------------------------


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


# --- train ------------------------------------------------------------------------------------------------------------


def train(argv: list[str], parser_class: Any) -> None:
    """`kilter train METHOD ...`: the flags are the fields of the method's Config, read from its source."""
    from kilter import recipes
    from kilter.fields import fill_parser, method_lines, normal_flags

    if not argv or argv[0] in ("-h", "--help"):
        print(
            "\n".join(
                ["usage: kilter train METHOD --model M --data D --out DIR [--field value]...", "", *method_lines()]
            )
        )
        return
    method = argv[0]
    if not method.endswith(".py") and method not in recipes.methods():
        raise UserError(f"unknown method {method!r}{nearest(method, recipes.methods())}")
    source = recipes.find_source(method)
    parser = parser_class(prog=f"kilter train {method}")
    fields = fill_parser(parser, method, source)
    args = vars(parser.parse_all(normal_flags(argv[1:])))
    given = {f.name: _field_value(f.type, args[f.name]) for f in fields if args.get(f.name) is not None}
    given |= {"doctor": False} if args["no_doctor"] else {}
    from kilter import pipeline

    done = pipeline.train_one(method, out=args["out"], seed=args["seed"], threads=args["threads"], **given)
    for stage in sorted(done.folder.glob("*/DONE")):
        print(f"model: {stage.parent / 'model'}")


def _field_value(annotation: str, text: str) -> Any:
    """Text where the field is text, else a YAML scalar; a field that takes text or a mapping takes `{a: 1, b: 2}`."""
    if annotation in ("str", "str | None") or annotation.startswith("Literal"):
        return text
    return text if annotation.startswith("str |") and not text.lstrip().startswith("{") else parse_value(text)


# --- doctor -----------------------------------------------------------------------------------------------------------


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


# --- plan -------------------------------------------------------------------------------------------------------------


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


# --- chat and sandbox -------------------------------------------------------------------------------------------------


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
