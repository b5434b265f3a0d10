"""The docs hold what they say: the reference is fresh, commands parse, links lead somewhere, examples work."""

from __future__ import annotations

import argparse
import ast
import importlib.util
import json
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from kilter import cli, commands, config, fields, pipeline, recipes
from kilter.data import streams
from kilter.errors import KilterError

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
TUTORIAL = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
MARKED = re.compile(r"^<!-- (file|rows|stages):? ?([\w.]*) -->\n```\w+\n(.*?)^```", re.MULTILINE | re.DOTALL)
STAND_INS = {"METHOD": "sft", "yours": "sft", "VERB": "run", "NAME": "sandbox", "RUN": "sandbox", "STAGE": "sft"}
"""What stands for the words with which a page speaks of any method, verb or recipe."""


def page_id(page: Path) -> str:
    return page.name


def marked(kind: str) -> dict[str, str]:
    """The tutorial's examples that are marked as a file, as rows, as stages of a recipe."""
    return {name: text for found, name, text in MARKED.findall(TUTORIAL) if found == kind}


# --- the reference ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def make_reference() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_reference", ROOT / "docs" / "make_reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_reference_is_fresh(make_reference: ModuleType) -> None:
    assert make_reference.main(["--check"]) == 0, "run: python docs/make_reference.py"


def test_a_stale_reference_is_told(
    make_reference: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "reference.md"
    assert make_reference.main(["--check"], page) == 1
    assert make_reference.main([], page) == 0
    assert make_reference.main(["--check"], page) == 0
    page.write_text(page.read_text(encoding="utf-8").replace("kl_coef", "kl_cof"), encoding="utf-8")
    assert make_reference.main(["--check"], page) == 1
    assert "make_reference.py" in capsys.readouterr().err


def test_every_field_stands_in_the_reference() -> None:
    rows = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8").splitlines()
    for source in (*recipes.methods().values(), *recipes.ROOMS.values()):
        for field in config.describe(source):
            assert any(row.startswith(f"| `{field.name}` |") for row in rows), field.name


# --- commands ---------------------------------------------------------------------------------------------------------


def commands_of(page: Path) -> Iterator[list[str]]:
    """The words after `kilter` of every command in a page's code, fenced or inline."""
    text = page.read_text(encoding="utf-8")
    for language, block in FENCE.findall(text):
        if language in ("sh", "bash", "console"):
            for line in block.replace("\\\n", " ").splitlines():
                yield from _in_line(line.removeprefix("$ "))
    for span in re.findall(r"`(kilter [^`]+)`", FENCE.sub("", text)):
        words = shlex.split(" ".join(span.split()))[1:]
        if " ".join(words) not in (*cli.VERBS, *(v.split()[0] for v in cli.VERBS), "train"):  # only the verb's name
            yield [STAND_INS.get(w, w) for w in words]


def _in_line(line: str) -> Iterator[list[str]]:
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words: list[str] = []
    for word in [*lexer, ";"]:
        if set(word) <= set("&|;"):
            if words and words[0] == "kilter":
                yield words[1:]
            words = []
        else:
            words.append(word)


class Parsed(Exception):
    """Raised in place of acting."""


@pytest.fixture
def somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder with the files that the pages speak of."""
    monkeypatch.chdir(tmp_path)
    for name in ("demos", "rankings", "prompts"):
        (tmp_path / f"{name}.jsonl").touch()
    for name in ("my-model", "my-llama"):
        (tmp_path / name).mkdir()
    for name, text in marked("file").items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    shutil.copy(tmp_path / "simpo.py", tmp_path / "mine.py")
    for name, source in recipes.shipped().items():
        shutil.copy(source, tmp_path / f"{name}.yaml")
    for name in ("mine", "recipe"):
        shutil.copy(tmp_path / "sandbox.yaml", tmp_path / f"{name}.yaml")
    return tmp_path


def parse(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Take a command as far as the command line does before it acts, and check what it would be told then."""

    def stop(*_: Any, **__: Any) -> None:
        raise Parsed

    def check_run(args: argparse.Namespace) -> None:
        plan = recipes.load(args.recipe, commands.parse_settings(args.settings))
        commands.parse_seeds(args.seeds or "1")
        for stage in plan.stages.values():
            config.build(pipeline.load_module(stage.source).Config, stage.given, stage.name)
        assert {args.from_stage, args.until} - {None} <= set(plan.stages)
        raise Parsed

    def check_train(method: str, *, out: str, seed: int, threads: int, **given: Any) -> None:
        module = pipeline.load_module(recipes.find_source(method))
        config.build(module.Config, given, method)
        raise Parsed

    monkeypatch.setattr(pipeline, "train_one", check_train)
    for name, verb in cli.VERBS.items():
        changed = cli.Verb(verb.about, verb.arguments, check_run if name == "run" else stop, verb.examples)
        monkeypatch.setitem(cli.VERBS, name, changed)
    try:
        cli.dispatch([w for w in words if w != "--debug"])
    except Parsed:
        return
    except SystemExit:  # --help
        return


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_every_command_parses(
    page: Path, somewhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = []
    for words in commands_of(page):
        try:
            parse(words, monkeypatch)
        except KilterError as error:
            bad.append(f"kilter {' '.join(words)}: {error}")
    assert not bad, "\n".join(bad)


def test_a_wrong_command_would_be_found(somewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = somewhere / "page.md"
    lines = (
        "kilter rnu sandbox", "kilter run sandbox --set ppo.kl_cof=1", "kilter run sandbox --set ppo.steps=-1",
        "kilter train sft --model m --data d --out o --stpes 3", "cd x && kilter run sandbox --from nowhere  # why",
    )  # fmt: skip
    page.write_text(
        "```sh\n" + "\n".join(lines) + "\n```\nand `kilter run` or `kilter chat` `kilter train METHOD -h`\n"
    )
    found = list(commands_of(page))
    assert found[0] == ["rnu", "sandbox"]
    assert found[-1] == ["train", "sft", "-h"]
    assert len(found) == len(lines) + 1
    for words in found[:-1]:
        with pytest.raises((KilterError, AssertionError)):
            parse(words, monkeypatch)


# --- links ------------------------------------------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives a page's headings."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE):
        slug = re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")
        number = sum(1 for seen in found if seen == slug or re.fullmatch(rf"{re.escape(slug)}-\d+", seen))
        found.add(f"{slug}-{number}" if number else slug)
    return found


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_links_resolve(page: Path) -> None:
    """Files exist, anchors are headings, and a name linked to a source file stands in it."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    bad = []
    for label, target in re.findall(r"\[([^\]]*)\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        place, _, anchor = target.partition("#")
        path = (page.parent / place).resolve() if place else page
        if not path.exists() or not path.is_relative_to(ROOT):
            bad.append(f"{target}: no such file")
        elif anchor and anchor not in anchors(path):
            bad.append(f"{target}: no such heading")
        elif path.suffix == ".py" and re.fullmatch(r"`\w+`", label) and label.strip("`") not in names_in(path):
            bad.append(f"{label} is not in {place}")
    assert not bad, "\n".join(bad)


def names_in(source: Path) -> set[str]:
    """Functions and classes that a source file defines."""
    tree = ast.parse(source.read_text(encoding="utf-8"))
    return {n.name for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.ClassDef))}


# --- the tutorial's examples ------------------------------------------------------------------------------------------


def test_what_the_tutorial_shows_of_the_world_is_shown() -> None:
    from kilter.sandbox.show import show

    shown = next(block for _, block in FENCE.findall(TUTORIAL) if block.startswith("[2] open_qa"))
    assert shown.strip() in show(3, 1, "eval")


def test_rows_of_the_tutorial_are_read() -> None:
    found = marked("rows")
    assert set(found) == set(streams.PARSERS)
    for kind, block in found.items():
        for number, line in enumerate(block.splitlines(), 1):
            streams.PARSERS[kind](json.loads(line), f"{kind}:{number}")


def test_the_worked_method_trains(world: Path, somewhere: Path) -> None:
    """The file in the tutorial is a method: its fields are described, and it trains and leaves a model."""
    assert len(marked("file")["simpo.py"].splitlines()) < 60
    assert {f.name: f.doc for f in config.describe(Path("simpo.py"))}["gamma"].startswith("Margin")
    assert fields.docstring(Path("simpo.py")).startswith("SimPO")
    done = pipeline.train_one(
        "./simpo.py", model=world / "llama", data=world / "rankings.jsonl", out="out", steps=3, threads=1
    )
    assert (done.model("simpo") / "model.safetensors").is_file()


def test_the_worked_method_fits_into_the_recipe(somewhere: Path) -> None:
    recipe = yaml.safe_load((somewhere / "sandbox.yaml").read_text(encoding="utf-8"))
    for name, given in yaml.safe_load(marked("stages")[""]).items():
        recipe["stages"][name] = {**recipe["stages"].get(name, {}), **given}
    (somewhere / "sandbox.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    plan = recipes.load("sandbox.yaml", {})
    assert plan.stages["evaluate"].given["models"]["simpo"] == "simpo"
    assert list(plan.stages)[-1] == "evaluate"


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_python_of_the_pages_compiles(page: Path) -> None:
    for language, block in FENCE.findall(page.read_text(encoding="utf-8")):
        if language == "python":
            compile(block, str(page), "exec")


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_equations_survive_markdown(page: Path) -> None:
    r"""GitHub reads Markdown first: it would take `\,` for a comma, and a line that begins with `+ ` for a list."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    assert text.count("$$") % 2 == 0
    for equation in text.split("$$")[1::2]:
        assert not re.search(r"\\[^A-Za-z]", equation), equation
        assert len(equation.strip().splitlines()) == 1, equation
        assert equation.count("{") == equation.count("}"), equation


def test_figures_have_their_place() -> None:
    assert TUTORIAL.count("<!-- figures:begin -->") == TUTORIAL.count("<!-- figures:end -->") == 1
