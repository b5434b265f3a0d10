"""Configuration: what is read from the source is what the class has, and plain values fit or are refused by name."""

from __future__ import annotations

import dataclasses
import importlib
import subprocess
import sys
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kilter import config, recipes
from kilter.errors import RecipeError

SOURCES = {**recipes.methods(), **{n: p for n, p in recipes.ROOMS.items() if p.is_file()}}


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Every kind of field."""

    rate: float = 0.1
    """A number."""
    count: int = 3
    maybe: int | None = None
    word: str = "a"
    flag: bool = False
    kind: Literal["one", "two"] = "one"
    names: tuple[str, ...] = ()
    parts: dict[str, dict[str, float]] = field(default_factory=dict)
    anything: Any = None


@pytest.mark.parametrize("name", SOURCES)
def test_describe_and_build_agree_on_every_shipped_configuration(name: str) -> None:
    """Names, order of inheritance, defaults and types that `--help` shows are those that the class has."""
    source = SOURCES[name]
    module = importlib.import_module(".".join(("kilter", *source.relative_to(config.PACKAGE).with_suffix("").parts)))
    described = {f.name: f for f in config.describe(source)}
    fields = {f.name: f for f in dataclasses.fields(module.Config)}
    assert set(described) == set(fields)
    scope = {**vars(typing), **vars(module)}
    for key, f in fields.items():
        text = described[key].default
        if f.default is not dataclasses.MISSING:
            assert eval(text, scope) == f.default, key
        elif f.default_factory is dataclasses.MISSING:
            assert text == ""
        assert described[key].doc, f"{name}.{key} has no string under it"
        assert eval(described[key].type, scope) == typing.get_type_hints(module.Config)[key]


def test_describe_imports_neither_torch_nor_the_module() -> None:
    code = (
        "import sys; from kilter import config, recipes\n"
        "[config.describe(p) for p in recipes.methods().values()]\n"
        "bad = [m for m in ('torch', 'transformers', 'numpy', 'kilter.methods.ppo', 'jinja2') if m in sys.modules]\n"
        "assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": str(config.PACKAGE.parent), "PATH": ""})


def test_checking_a_recipe_imports_no_torch(world: Path, tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(f"stages: {{sft: {{model: {world}/llama, data: {world}/demos.jsonl}}}}")
    code = f"import sys; from kilter import recipes; recipes.load({str(path)!r}); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": str(config.PACKAGE.parent), "PATH": ""})


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({"rate": "1e-4"}, 1e-4),  # YAML 1.1 reads 1e-4 as text
        ({"rate": 2}, 2.0),
        ({"count": 3.0}, 3),
        ({"maybe": None}, None),
        ({"maybe": 4}, 4),
        ({"kind": "two"}, "two"),
        ({"names": ["a", "b"]}, ("a", "b")),
        ({"parts": {"a": {"b": "2e-1"}}}, {"a": {"b": 0.2}}),
        ({"anything": [1, {"a": 2}]}, [1, {"a": 2}]),
    ],
)
def test_plain_values_become_what_the_field_wants(given: dict[str, Any], wanted: Any) -> None:
    (name,) = given
    found = getattr(config.build(Sample, given, "stage"), name)
    assert found == wanted
    assert type(found) is type(wanted)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"rat": 1}, r"stage: unknown field 'rat'; did you mean 'rate'\?"),
        ({"zzzzzz": 1}, r"stage: unknown field 'zzzzzz'; allowed: anything, count"),
        ({"rate": "fast"}, r"stage.rate is 'fast' \(str\), but must be a finite number"),
        ({"rate": True}, r"stage.rate is True \(bool\), but must be a finite number"),
        ({"rate": float("nan")}, "must be a finite number"),
        ({"rate": ".inf"}, "must be a finite number"),
        ({"rate": None}, r"stage.rate is None \(NoneType\)"),
        ({"count": 2.5}, r"stage.count is 2.5 \(float\), but must be a whole number"),
        ({"count": float("nan")}, "must be a whole number"),
        ({"count": float("inf")}, "must be a whole number"),
        ({"count": True}, "must be a whole number"),
        ({"count": "3"}, "must be a whole number"),
        ({"maybe": "x"}, "must be a whole number"),
        ({"word": 3}, "must be text"),
        ({"flag": 1}, "must be true or false"),
        ({"flag": "yes"}, "must be true or false"),
        ({"kind": "twoo"}, r"not one of its values; did you mean 'two'\?"),
        ({"names": "a"}, "must be a list"),
        ({"names": ["a", 2]}, r"stage.names\[1\] is 2"),
        ({"parts": {"a": {"b": "x"}}}, r"stage.parts.a.b is 'x'"),
        ({"parts": {"a": 1}}, r"stage.parts.a is 1 \(int\), but must be a mapping"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_by_name(given: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        config.build(Sample, given, "stage")


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    ),
    st.sampled_from([f.name for f in dataclasses.fields(Sample)]),
)
def test_any_plain_value_fits_or_is_refused_and_never_crashes(value: Any, name: str) -> None:
    try:
        built = config.build(Sample, {name: value}, "stage")
    except RecipeError as error:
        refused = str(error)
        assert f"stage.{name}" in refused
    else:
        again = config.build(Sample, config.plain(built), "stage")
        assert getattr(again, name) == getattr(built, name) or value != value


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"batch": 0}, "batch is 0, but must be above 0"),
        ({"steps": 0}, "steps is 0"),
        ({"micro_tokens": -1}, "micro_tokens"),
        ({"checkpoint_every": 0}, "checkpoint_every"),
        ({"keep": 0}, "keep is 0"),
        ({"lr": -1e-3}, "lr is -0.001"),
        ({"minibatches": 0}, "minibatches"),
        ({"temperature": 0}, "temperature"),
        ({"epochs": 0}, "epochs"),
    ],
)
def test_numbers_out_of_range_are_refused(given: dict[str, Any], message: str) -> None:
    from kilter.methods import ppo

    with pytest.raises(RecipeError, match=message):
        config.build(ppo.Config, {"model": "m", "data": "d", "reward": "r", **given}, "ppo")


def test_a_field_that_must_be_given_is_named() -> None:
    from kilter.methods import ppo

    with pytest.raises(RecipeError, match="ppo: field 'data' must be given"):
        config.build(ppo.Config, {"model": "m", "reward": "r"}, "ppo")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", r"key 'a' is given twice"),
        ("stages:\n  sft: {lr: 1, lr: 2}\n", r"key 'lr' is given twice"),
        ("- a\n- b\n", "must hold a mapping .* got list"),
        ("", "must hold a mapping .* got NoneType"),
        ("a: [1,\n", "not valid YAML"),
        ("a: !!python/object/apply:os.system ['true']\n", "not valid YAML"),
        ("{[1]: 2}", "can't be a key"),
        ("a: \x00", "not valid YAML"),
    ],
)
def test_yaml_that_is_wrong_or_unsafe_is_refused(text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=f"(?s)r.yaml: .*{message}"):
        config.load_yaml(text, "r.yaml")
