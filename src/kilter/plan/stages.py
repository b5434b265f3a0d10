"""A recipe's stages as the planner sees them: what each loads and shares, how long its rows are, what it samples.

Nothing has to have run: what an earlier stage would leave (a folder of its own, or an adapter over what it began from)
follows from that stage's configuration, by the rules of `models.roles`.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from kilter import config, recipes
from kilter.errors import KilterError, RecipeError
from kilter.plan import memory
from kilter.plan.memory import Frozen, Parts, Pass, Role, Sampled, Settings
from kilter.plan.shapes import Shape, shape_of
from kilter.recipes import Recipe, StagePlan
from kilter.references import asked_for, is_endpoint, is_model, is_served, is_weighted

SAMPLE = 400
"""Rows of a file whose lengths are counted."""
FORWARD_TOKENS = 4096
"""Tokens of a turn through the model where a method does not say (`models.logprobs`)."""
ROWS = {"cpu": 64, "cuda": 512}
"""Rows that are decoded together (`models.sample`)."""
ASSUMED = 1024
"""Longest row where neither the data nor the stage tells."""
ASSUMED_ANSWERS = 2


@dataclass(frozen=True)
class Source:
    """What a model field will find: base weights, and adapters over them."""

    base: str
    shape: Shape
    classifier: bool = False
    adapters: tuple[Frozen, ...] = ()
    folder: str = ""
    """Where its tokenizer lies, when it is on this disk."""


@dataclass(frozen=True)
class Lengths:
    """How long a stage's rows are: the longest decide memory, the mean ones time."""

    prompt: int
    answer: int
    answers: int = 1
    """Answers in one row."""
    mean_prompt: float = 0.0
    mean_answer: float = 0.0
    trained: float = 1.0
    """Share of the tokens of a packed row that the head reads."""
    rows: int | None = None
    """Rows in the file."""
    heldout: int = 0
    """Held-out prompts that are answered, too."""
    told: str = ""
    """Where these figures come from."""

    @property
    def row(self) -> int:
        """Longest prompt with its longest answer."""
        return self.prompt + self.answer


@dataclass(frozen=True)
class Planned:
    """One stage: its configuration, its actors and its rows."""

    name: str
    method: str
    module: Any
    config: Any
    sources: Mapping[str, Source]
    """Role -> what it is loaded from."""
    lengths: Lengths
    cuda: bool = False
    trains: bool = True
    kind: str = ""
    """What the rows are: text, demonstrations, prompts, rankings or labels; of a room, nothing."""
    notes: tuple[str, ...] = field(default=())

    def changed(self, **fields: Any) -> Planned:
        """The same stage with other settings; shorter answers leave the prompts as they are."""
        lengths = replace(self.lengths, answer=fields["max_new"]) if "max_new" in fields else self.lengths
        return replace(self, config=replace(self.config, **fields), lengths=lengths)

    @property
    def settings(self) -> Settings:
        c = self.config
        names = ("dtype", "lora_rank", "quantize", "train_layers", "checkpointing", "optimizer")
        targets = tuple(getattr(c, "lora_targets", "").split())
        return Settings(**{n: getattr(c, n) for n in names if hasattr(c, n)}, cuda=self.cuda, lora_targets=targets)

    @property
    def needs(self) -> Mapping[str, str]:
        """Role -> kind of model."""
        if self.trains:
            from kilter.models.roles import needs_of

            return needs_of(self.module, self.config)
        return {role: "reward" if role == "reward" else "causal" for role in self.sources}

    @property
    def learning(self) -> tuple[str, ...]:
        """Roles that learn."""
        if not self.trains:
            return ()
        from kilter.models.roles import params_of

        return tuple(params_of(self.module, self.config))

    @property
    def roles(self) -> list[Role]:
        learning = self.learning
        return [
            Role(name, kind, source.shape, source.base, name in learning, source.adapters, source.classifier)
            for name, kind in self.needs.items()
            for source in (self.sources[name],)
        ]

    @property
    def online(self) -> bool:
        """Whether it learns from answers that it draws."""
        return self.trains and self.kind == "prompts"

    @property
    def pairs(self) -> bool:
        """Whether a micro-batch is made of whole prompts with several answers."""
        return self.kind in ("rankings", "labels") or self.method == "online-dpo"

    @property
    def learnt_from(self) -> int:
        """Answers to a prompt that an online method learns from; RAFT keeps the best alone."""
        return 1 if self.method == "raft" else int(getattr(self.config, "answers", 1))

    @property
    def rows_per_update(self) -> int:
        """Sequences (or packed rows) in one optimiser step."""
        c = self.config
        if self.online:
            whole, steps = int(c.batch) * self.learnt_from, int(min(getattr(c, "minibatches", 1), c.batch))
            return max(1, -(-whole // steps))
        return int(c.batch) * (self.lengths.answers if self.pairs else 1)

    @property
    def rows_are(self) -> str:
        """What the rows of an update are."""
        return "packed rows" if self.packed else "answers"

    @property
    def updates_per_round(self) -> int:
        steps = getattr(self.module, "steps_per_round", None)
        return int(steps(self.config)) if steps else 1

    @property
    def rounds(self) -> int | None:
        """Rounds of the whole stage, where the data tells."""
        c = self.config
        if c.steps is not None:
            return int(c.steps)
        if self.lengths.rows is None:
            return None
        rows: float = self.lengths.rows
        if self.packed:
            rows = max(1.0, rows * (self.lengths.mean_prompt + self.lengths.mean_answer) / self.row_tokens)
        return max(1, round(float(c.epochs) * rows / int(c.batch)))

    @property
    def packed(self) -> bool:
        return self.kind in ("text", "demonstrations") and hasattr(self.config, "row_tokens")

    @property
    def row_tokens(self) -> int:
        """Width of a packed row; a longer row widens it."""
        return max(int(self.config.row_tokens), self.lengths.row)

    @property
    def unit(self) -> int:
        """Tokens of the least micro-batch: a row, or a prompt with all its answers."""
        if self.packed:
            return self.row_tokens
        return self.lengths.row * (self.compared if self.pairs and self.kind != "labels" else 1)

    @property
    def compared(self) -> int:
        """Answers of one prompt that train together."""
        if self.method == "online-dpo":
            return 2 if self.config.pairs == "extremes" else int(self.config.answers)
        return self.lengths.answers

    @property
    def units_per_update(self) -> int:
        """What an optimiser step is cut into micro-batches by: rows, or prompts with all their answers."""
        c = self.config
        if self.pairs and self.kind != "labels":
            return int(-(-c.batch // min(getattr(c, "minibatches", 1), c.batch)))
        return self.rows_per_update

    @property
    def micros(self) -> int:
        """Micro-batches of one optimiser step."""
        return -(-self.units_per_update // max(1, int(self.config.micro_tokens) // self.unit))

    def micro(self) -> Pass:
        """Tokens of one forward and backward; a prompt that several answers share counts once."""
        c, lengths = self.config, self.lengths
        fit = min(max(1, int(c.micro_tokens) // self.unit), self.units_per_update)
        if self.packed:
            return self._rows(fit, self.row_tokens, self.row_tokens * lengths.trained)
        k = self.compared if self.pairs else self.learnt_from
        if self.pairs and self.kind != "labels":
            return self._tree(fit, fit * k)
        grouped = self.kind == "labels" or (k > 1 and self.micros == 1)
        return self._tree(-(-fit // k) if grouped else fit, fit)

    def _tree(self, prompts: int, rows: int) -> Pass:
        """So many answers to so many prompts; one that several answers share counts once."""
        lengths, chunk = self.lengths, 0 if self.online and not self.pairs else FORWARD_TOKENS
        read = rows * (1 if self.learning[0].startswith("reward") else lengths.answer)
        shape = self.roles[0].shape
        if rows == prompts or not shape.lean:
            return self._rows(rows, lengths.row, read / rows, chunk)
        tokens = prompts * lengths.prompt + rows * lengths.answer
        keys = prompts * lengths.prompt + rows * lengths.row
        kept = memory.kept_attention(shape, prompts, lengths.prompt, lengths.prompt)
        branches = memory.kept_attention(shape, rows, max(1, round(read / rows)), lengths.row)
        kept += memory.kept_attention(shape, rows, lengths.answer, lengths.row)
        return Pass(tokens, read, chunk, keys, rows * lengths.answer * lengths.row, kept, branches)

    def _rows(self, rows: int, tokens: int, read: float, chunk: int = 0) -> Pass:
        """Rows that share nothing, each with its last tokens read."""
        shape = self.roles[0].shape
        kept = memory.kept_attention(shape, rows, tokens, tokens)
        kept_read = memory.kept_attention(shape, rows, max(1, round(read)), tokens)
        return Pass(rows * tokens, rows * read, chunk, 0.0, 0.0, kept, kept_read)

    def sampled(self) -> Sampled | None:
        """The rollout, where there is one."""
        c = self.config
        if not self.online and (self.trains or not self.sources):
            return None
        lanes = int(getattr(c, "answers", 0) or getattr(c, "answers_max", 0) or 1)
        prompts = int(getattr(c, "batch", 0) or getattr(c, "part", 0) or ROWS["cpu"])
        most = int(getattr(c, "rollout_rows", 0)) or ROWS["cuda" if self.cuda else "cpu"]
        lanes, asked = min(lanes, most), prompts * lanes
        if self.lengths.heldout > asked:
            lanes, asked = 1, self.lengths.heldout
        named = (getattr(c, n, None) for n in ("max_new", "answer_tokens", "max_tokens"))
        longest = min(next((int(n) for n in named if n), self.lengths.answer), self.roles[0].shape.context)
        return Sampled(min(most, asked), self.lengths.prompt, longest, lanes, asked)

    def phases(self) -> dict[str, Parts]:
        """Bytes at the peak of each phase."""
        roles, s = self.roles, self.settings
        if not roles:
            return {}
        found: dict[str, Parts] = {}
        sampled = self.sampled()
        if sampled:
            found["rollout"] = memory.rollout(roles, s, sampled)
        if not self.trains:
            return found
        p = self.micro()
        scored = [*([p] if "reference" in self.needs else []), *self._scored()]
        beside = self._remembered()
        if scored:
            found["scores"] = memory.scoring(roles, s, scored, self.online and not self.pairs, beside)
        several = self.micros > 1 or bool(getattr(self.config, "corpus", ""))
        found["update"] = memory.update(roles, s, dict.fromkeys(self.learning, p), beside, several)
        corpus = self._corpus()
        if corpus:
            second = memory.update(roles, s, {self.learning[0]: corpus}, beside)
            found["update"] = max(found["update"], second, key=lambda x: x.total)
        return found

    def _scored(self) -> list[Pass]:
        """Forwards that go by `FORWARD_TOKENS`, whatever the micro-batch: a rollout's rewards, KTO's drift."""
        lengths, sampled = self.lengths, self.sampled()
        if sampled and "reward" in self.needs:
            rows = min(sampled.total, max(1, FORWARD_TOKENS // lengths.row))
            return [replace(self._tree(-(-rows // sampled.lanes), rows), read=0)]
        if self.method == "kto":
            rows = min(self.rows_per_update, max(1, FORWARD_TOKENS // lengths.row))
            return [self._tree(-(-rows // self.compared), rows)]
        return []

    def _corpus(self) -> Pass | None:
        c = self.config
        if not getattr(c, "corpus", ""):
            return None
        rows = min(c.corpus_rows, max(1, c.micro_tokens // c.row_tokens))
        return self._rows(rows, c.row_tokens, c.row_tokens)

    def _remembered(self) -> float:
        """What a round keeps of the blocks below those that learn, and of layouts."""
        c = self.config
        shape = self.roles[0].shape
        layouts = 0.0 if self.packed else memory.layouts(shape, self.settings, self.micro())
        if not c.train_layers:
            return layouts
        rows = self.rows_per_update * (self.updates_per_round if self.online else 1)
        tokens = rows * (self.row_tokens if self.packed else self.lengths.row)
        return layouts + min(1 << 30, tokens * shape.width * self.settings.e)

    def peak(self) -> tuple[str, Parts]:
        """The phase that takes most, and its bytes."""
        found = self.phases()
        return max(found.items(), key=lambda x: x[1].total) if found else ("", Parts())


# --- from a recipe ----------------------------------------------------------------------------------------------------


def planned(recipe: Recipe, cuda: bool, say: Callable[[str], None] = lambda _: None) -> list[Planned]:
    """Every stage of a recipe, in order."""
    from kilter.pipeline import load_module

    modules = {name: load_module(stage.source) for name, stage in recipe.stages.items()}
    configs = {n: config.build(modules[n].Config, stage.given, n) for n, stage in recipe.stages.items()}
    known = Models(recipe, modules, configs)
    found = []
    for name, stage in recipe.stages.items():
        say(name)
        make = _training if stage.trains else _room
        found.append(make(known, stage, modules[name], configs[name], cuda))
    return found


def _training(known: Models, stage: StagePlan, module: Any, c: Any, cuda: bool) -> Planned:
    from kilter.models.roles import needs_of, source_of

    sources = {role: known.find(source_of(role, module, c), stage.name) for role in needs_of(module, c)}
    first = next(iter(sources.values()))
    kind = module.EATS["data"].removeprefix("packed-")
    lengths = _lengths(known, stage.name, c, kind, first)
    on_gpu = cuda and c.device != "cpu"
    return Planned(stage.name, stage.method, module, c, sources, lengths, on_gpu, True, kind)


def _room(known: Models, stage: StagePlan, module: Any, c: Any, cuda: bool) -> Planned:
    """A stage that only samples and scores, or loads no model at all."""
    texts = {}
    if getattr(c, "model", ""):  # of several checkpoints one is in memory at a time
        texts["policy"] = next(iter(c.model)) if is_weighted(c.model) else c.model
    if getattr(c, "models", None):
        others = [m for n, m in c.models.items() if n != c.baseline]
        texts |= {"policy": c.models[c.baseline], **({"other": others[-1]} if others else {})}
    if getattr(c, "reward", "") and is_model(c.reward):
        texts["reward"] = c.reward
    texts = {role: t for role, t in texts.items() if not (is_endpoint(asked_for(t)) or is_served(asked_for(t)))}
    sources = {role: known.find(asked_for(text), stage.name) for role, text in texts.items()}
    on_gpu = cuda and getattr(c, "device", "cpu") != "cpu"
    lengths = Lengths(0, 0)
    if sources:
        lengths = _lengths(known, stage.name, c, "prompts", sources["policy"])
    return Planned(stage.name, stage.method, module, c, sources, lengths, on_gpu, trains=False)


class Models:
    """What every model text of a recipe stands for; worked out once."""

    def __init__(self, recipe: Recipe, modules: Mapping[str, Any], configs: Mapping[str, Any]) -> None:
        self.recipe, self.modules, self.configs = recipe, modules, configs
        self.seen: dict[str, Source] = {}

    def find(self, text: str, asked_by: str) -> Source:
        """The source behind a stage's name, a folder or a hub id."""
        if text not in self.seen:
            target = recipes.stage_of(text, self.recipe.stages)
            found = self._on_disk(text, asked_by) if target is None else self._made_by(target, text)
            self.seen[text] = found
        return self.seen[text]

    def _made_by(self, target: str, text: str) -> Source:
        stage, c = self.recipe.stages[target], self.configs[target]
        part = text.partition("/")[2]
        if not stage.trains:
            if stage.method != "sandbox":
                raise RecipeError(f"stage {target!r} makes no model, but {text!r} is read as one")
            return Source(text, _sandbox_shape(c, self.recipe.seed))
        from kilter.models.roles import needs_of, params_of, source_of

        module = self.modules[target]
        names = {("model" if not n else role): role for n, role in enumerate(params_of(module, c))}
        plain = part.removesuffix("-adapter") if part.endswith("-adapter") else part
        first = next(iter(names.values()))
        role = first if plain in ("", "model", "best", "adapter") else names.get(plain, first)
        start = self.find(source_of(role, module, c), target)
        whole = not c.lora_rank or (c.merge and not part.endswith("adapter"))
        if whole:
            kind = needs_of(module, c)[role]
            return Source(f"{target}/{role}", start.shape, kind != "causal", folder=start.folder)
        below = [f.targets for f in start.adapters]
        own = tuple(c.lora_targets.split())
        targets = () if not own or () in below else tuple(sorted({n for part in (*below, own) for n in part}))
        rank = sum(f.rank for f in start.adapters) + c.lora_rank
        return replace(start, adapters=(Frozen(f"{target}/{role}", rank, targets),))

    def _on_disk(self, text: str, asked_by: str) -> Source:
        from kilter.models import load

        path = self.recipe.find(text)
        name = str(path.resolve()) if path is not None else text
        try:
            base, ranks = _chain(name)
            load.check_model(base)
            shape = shape_of(load._config(base))
            own_head = load.has_own_head(base)
        except (RecipeError, OSError, ValueError, KeyError) as error:
            raise RecipeError(
                f"stage {asked_by!r}: the plan needs the config.json of {text}, and there is none to be read: {error}. "
                "A folder that holds nothing but config.json will do"
            ) from error
        has_words = path is not None and any((p / "tokenizer_config.json").is_file() for p in (path, Path(base)))
        return Source(base, shape, own_head, tuple(ranks), name if has_words else "")


def _chain(name: str) -> tuple[str, list[Frozen]]:
    """The model below a folder, and the adapters over it; no weights are read or compared."""
    found: list[Frozen] = []
    while (Path(name) / "adapter_config.json").is_file():
        folder = Path(name)
        said = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        targets = said.get("target_modules") or ()
        names = () if isinstance(targets, str) else tuple(sorted({t.rpartition(".")[2] for t in targets}))
        found.insert(0, Frozen(name, int(said["r"]), names))
        below = str(said["base_model_name_or_path"])
        name = str(Path(below).resolve()) if Path(below).exists() else below
        if name in [f.name for f in found]:
            raise RecipeError(f"{name} is an adapter over itself")
    return name, found


def _sandbox_shape(c: Any, seed: int) -> Shape:
    """The blank model that the sandbox stage would write."""
    from transformers import AutoTokenizer

    from kilter.sandbox import build, tokenizer

    with tempfile.TemporaryDirectory() as folder:
        tokenizer.build(Path(folder), seed)
        return shape_of(build.blank_config(c, AutoTokenizer.from_pretrained(folder)))


# --- lengths of rows --------------------------------------------------------------------------------------------------


def _lengths(known: Models, stage: str, c: Any, kind: str, source: Source) -> Lengths:
    """Counted on a sample of the file where it and the tokenizer are here, else assumed."""
    text = getattr(c, "data", "") or getattr(c, "prompts", "")
    path = None if recipes.stage_of(text, known.recipe.stages) else known.recipe.find(text)
    room = min(getattr(c, "context", None) or source.shape.context, source.shape.context)
    max_new = int(getattr(c, "max_new", 0))
    if max_new and room - max_new < 1:
        raise RecipeError(f"stage {stage}: max_new is {max_new}, but the context has {room} tokens in all; lower it")
    heldout = _heldout(known, c) if kind == "prompts" else 0
    if path is not None and source.folder:
        try:
            return replace(_counted(path, source.folder, c, kind, room, max_new), heldout=heldout)
        except (KilterError, OSError) as error:
            why = str(error)
    else:
        why = f"{text} is not here yet" if path is None else "there is no tokenizer here"
    return replace(_assumed(c, kind, room, max_new, f"assumed ({why})"), heldout=heldout)


def _heldout(known: Models, c: Any) -> int:
    """Held-out prompts: counted where they are here, else as many as are ever decoded together."""
    text = str(getattr(c, "heldout", ""))
    path = None if recipes.stage_of(text, known.recipe.stages) else known.recipe.find(text) if text else None
    if path is not None and path.is_file():
        with open(path, "rb") as rows:
            return sum(1 for _ in rows)
    return ROWS["cuda"] if text else 0


def _assumed(c: Any, kind: str, room: int, max_new: int, why: str) -> Lengths:
    row = room if getattr(c, "context", None) else min(room, ASSUMED)
    if kind in ("text", "demonstrations"):
        width = min(row, int(getattr(c, "row_tokens", row)))
        return Lengths(width // 2, width - width // 2, 1, width / 4, width / 4, told=f"{why}: rows of {width} tokens")
    answer = max_new or row // 2
    prompt = max(1, min(row, room) - answer) if row > answer else max(1, room - answer)
    answers = ASSUMED_ANSWERS if kind in ("rankings", "labels") else 1
    told = f"{why}: prompts of up to {prompt} tokens, answers of up to {answer}"
    told += f", {answers} answers a prompt" if answers > 1 else ""
    return Lengths(prompt, answer, answers, prompt / 2, answer / 2, told=told)


def _counted(path: Path, folder: str, c: Any, kind: str, room: int, max_new: int) -> Lengths:
    from kilter.data import streams
    from kilter.data.files import Row
    from kilter.data.sources import open_source
    from kilter.models.load import load_tokenizer

    files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
    lines: list[bytes] = []
    count = 0
    if not files or (not path.is_dir() and not path.name.endswith(".jsonl")):
        head = islice(open_source(path).rows(), SAMPLE)
        lines = [json.dumps(row.value).encode() + b"\n" for row in head if isinstance(row, Row)]
        files = []
    for file in files:
        with open(file, "rb") as rows:
            taken = list(islice(rows, max(0, SAMPLE - len(lines))))
            lines += taken
            count += len(taken) + (sum(1 for _ in rows) if len(files) == 1 else 0)
    with tempfile.TemporaryDirectory() as here:
        part = Path(here) / "rows.jsonl"
        part.write_bytes(b"".join(lines))
        items, _ = streams.load(part, kind, load_tokenizer(folder), 10**9, 1.0)
    told = f"counted on {len(items)} rows of {path.name}"
    rows_in = count if len(files) == 1 else None
    if kind in ("text", "demonstrations"):
        long = room if kind == "text" else max(map(len, items))
        sizes, trained = [len(i) for i in items], sum(sum(i.trained) for i in items)
        widest = min(room, long if kind == "demonstrations" else int(getattr(c, "row_tokens", long)))
        mean = sum(sizes) / len(sizes)
        share = trained / sum(sizes)
        return Lengths(0, widest, 1, 0.0, mean, share, rows_in, told=told)
    if kind == "prompts":
        sizes = [min(len(i), room - max_new) for i in items]
        return Lengths(max(sizes), max_new, 1, sum(sizes) / len(sizes), max_new, 1.0, rows_in, told=told)
    starts = [min(i.starts) for i in items]
    answers = [len(s) - st for i in items for s, st in zip(i.sequences, i.starts, strict=True)]
    each = max(len(i.sequences) for i in items)
    return Lengths(
        max(starts), max(answers), each, sum(starts) / len(starts), sum(answers) / len(answers), 1.0, rows_in, told=told
    )
