"""Writes docs/reference.md from the sources: every verb's flags, every field's string, every form of a row.

    python docs/make_reference.py            writes the page anew
    python docs/make_reference.py --check    exits with 1 when the page is stale

Nothing here imports torch.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from pathlib import Path

from kilter import cli, config, fields, recipes

PAGE = Path(__file__).parent / "reference.md"
FORMATS = recipes.PACKAGE / "data" / "rows.py"
PLAIN = {"int": "whole number", "float": "number", "str": "text", "bool": "true or false"}
MANY = {"dict[str, str]": "mapping of texts", "tuple[str, ...]": "list of texts"}
HEAD = """\
# Reference

Written by `python docs/make_reference.py` from the strings in the sources, the same that `--help` prints: change them
there, not here. How the parts work together is told in the [tutorial](tutorial.md), single tasks in the
[how-to](howto.md).

* [The command line](#the-command-line)
* [A recipe](#a-recipe)
* [Rows of data](#rows-of-data)
* [Fields of every training method](#fields-of-every-training-method)
"""
RECIPE = """\
## A recipe

A YAML file with these keys; an unknown one is refused, and the nearest right one is named.

| key | what it is |
|---|---|
| `name` | the run directory's name, unless `--name` gives another |
| `about` | one line for `kilter recipes` |
| `seed` | every draw follows from it (default: 1) |
| `threads` | CPU threads; a run is bit-identical for the same number only (default: 2) |
| `doctor` | whether each stage is examined before it trains (default: true) |
| `stages` | `stage: {method: ..., field: value, ...}`; the method defaults to the stage's name |

A method is one of the names below, or a file of your own (`method: ./mine.py`). A field that names an input takes a
stage (`sft` is its model), a file of a stage (`world/demos.jsonl`), a path or a hub id.

"""


def cell(text: str) -> str:
    """A text that can stand in a table."""
    return text.replace("|", "\\|").replace("<", "&lt;")


def kind(annotation: str) -> str:
    """A field's type in words."""
    if annotation.startswith("Literal["):
        return " or ".join(f"`{v}`" for v in ast.literal_eval(annotation.removeprefix("Literal")))
    parts = [k.strip() for k in annotation.split("|")] if "[" not in annotation else [annotation]
    return " or ".join("unset" if k == "None" else PLAIN.get(k) or MANY.get(k) or f"`{k}`" for k in parts)


def default(field: config.Field) -> str:
    """A field's default as it would stand in a recipe."""
    if not field.default:
        return "must be given"
    try:
        value = ast.literal_eval(field.default)
    except ValueError:  # an expression
        return f"`{field.default}`"
    if isinstance(value, tuple):
        return f"`[{', '.join(map(str, value))}]`"
    words = {None: "unset", "": "none", True: "`true`", False: "`false`"}
    return words[value] if value is None or isinstance(value, bool) or value == "" else f"`{value}`"


def table(found: list[config.Field]) -> str:
    """Fields as a table."""
    rows = [f"| `{f.name}` | {cell(kind(f.type))} | {cell(default(f))} | {cell(f.doc)} |" for f in found]
    return "\n".join(["| field | type | default | what it is |", "|---|---|---|---|", *rows])


def docstring(source: Path) -> str:
    """A module's docstring as Markdown: formulas are indented there, or made so here."""
    text = ast.get_docstring(ast.parse(source.read_text(encoding="utf-8")), clean=False) or ""
    return re.sub("^loss = ", "    loss = ", text.strip(), flags=re.MULTILINE)


def verbs() -> str:
    """Every verb with its flags."""
    blocks = ["## The command line\n\nEach verb explains itself: `kilter VERB --help`."]
    for name, verb in cli.VERBS.items():
        parser = cli.Parser(prog=f"kilter {name}")
        verb.arguments(parser)
        rows = []
        for action in parser._actions:
            if action.dest == "help":
                continue
            word = " ".join(filter(None, [*action.option_strings[:1], str(action.metavar or "")]))
            rows.append(f"| `{word}` | {cell(action.help or '')} |")
        head = ["| argument | what it is |", "|---|---|"] if rows else []
        about = f"{verb.about[0].upper()}{verb.about[1:]}."
        blocks.append("\n".join([f"### kilter {name}", "", about, "", *head, *rows]))
    names = ", ".join(f"[`{n}`](#{n})" for n in recipes.methods())
    blocks.append(
        "### kilter train\n\n"
        "Trains one stage on your own files: `kilter train METHOD --model M --data D --out DIR`, and "
        f"any field of the method as a flag. Methods: {names}, or a file of your own (`./mine.py`). Beside the fields "
        "there are `--out` (the run directory; `DIR/STAGE/model` is the result), `--seed` and `--threads`."
    )
    return "\n\n".join(block.rstrip() for block in blocks)


def methods() -> str:
    """The fields that all methods share, then each method's own, and where its default is another."""
    common = config.describe(fields.COMMON, "Training")
    shared = {f.name: f for f in common}
    blocks = [f"## Fields of every training method\n\n{table(common)}"]
    for name, source in recipes.methods().items():
        found = [f for f in config.describe(source) if shared.get(f.name) != f]
        own = [f for f in found if f.name not in shared]
        other = [f for f in found if f.name in shared]
        blocks.append(f"## {name}\n\n{docstring(source)}")
        blocks += [table(own)] if own else []
        blocks += [f"Shared fields with a default or a meaning of their own here:\n\n{table(other)}"] if other else []
    return "\n\n".join(blocks)


def rooms() -> str:
    """The stages that train nothing."""
    blocks = []
    for name, source in recipes.ROOMS.items():
        blocks += [f"## {name}\n\n{docstring(source)}", table(config.describe(source))]
    return "\n\n".join(blocks)


def rows_of_data() -> str:
    """What the readers of JSONL say of themselves."""
    _, _, rest = fields.docstring(FORMATS).partition("\n")
    forms, _, words = rest.strip().partition("\nA prompt is")
    return f"## Rows of data\n\nJSONL in UTF-8, one object a line.\n\n```text\n{forms}\n```\n\nA prompt is{words}"


def render() -> str:
    """The whole page."""
    names = [*recipes.methods(), *recipes.ROOMS]
    head = HEAD + "".join(f"  * [{n}](#{n})\n" for n in names)
    return "\n\n".join([head.rstrip(), verbs(), RECIPE.rstrip(), rows_of_data(), methods(), rooms()]) + "\n"


def main(argv: list[str] | None = None, page: Path = PAGE) -> int:
    """Write the page, or say whether it is stale."""
    parser = argparse.ArgumentParser(description="Write docs/reference.md from the sources.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 when the page is stale")
    if not parser.parse_args(argv).check:
        page.write_text(render(), encoding="utf-8")
        return 0
    fresh = page.is_file() and page.read_text(encoding="utf-8") == render()
    if not fresh:
        print(f"{page} is stale; run: python docs/make_reference.py", file=sys.stderr)
    return 0 if fresh else 1


if __name__ == "__main__":
    sys.exit(main())
