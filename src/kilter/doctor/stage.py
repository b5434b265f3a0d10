"""Checks of a method at work, and all checks of a stage: quickly before it trains, or at leisure from the command line.

Weights are moved in one check and put back to the bit; gradients are dropped; draws are keyed, so nothing that training
reads has changed when its first step begins.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kilter.data import streams as data
from kilter.doctor import numerics, reward, rows, tokens
from kilter.doctor.finding import Finding, attempt, count, graded, worst
from kilter.doctor.tokens import Asked
from kilter.errors import RunError
from kilter.methods import Method
from kilter.models.load import context_of
from kilter.models.logprobs import answer_logps, scores, token_values
from kilter.models.roles import Actors, needs_of, params_of
from kilter.models.sample import Sampling, sample
from kilter.runs import Stage, write_json
from kilter.train.loop import accumulate
from kilter.train.optim import Optimizers

REPORT = "doctor.json"
QUICK, LEISURE = 4, 8
"""Rows that go through a model, before training and from the command line."""
WIDTH = 256
"""A longer row goes through a model as its first tokens only."""
LOOKED_AT = 2000
"""Rows of a file that are looked at before training; the command line looks at all."""
GRADIENTS = 4_000_000
"""Numbers of a gradient that are compared."""
NO_GRADIENT = 1e-5
"""A gradient's norm below which it is rounding: every answer scored alike, say."""
SMALL = {"batch": 4, "max_new": 8, "minibatches": 1, "ppo_epochs": 1, "corpus_rows": 1, "answers": 2}
"""A stage's fields while a single small batch of it is examined."""


def _smaller(actors: Actors) -> Actors:
    """The same actors, told to work on a small batch."""
    small = copy.copy(actors)
    small.cache, small.folder = {}, None  # nothing that is taken in other batches may stay for training
    c = actors.config
    less = {n: min(v, getattr(c, n)) for n, v in SMALL.items() if isinstance(getattr(c, n, None), int)}
    with contextlib.suppress(ValueError):  # a method whose fields must fit each other keeps its own
        small.config = dataclasses.replace(c, **less)
    return small


def _drop_gradients(method: Method, actors: Actors) -> None:
    for role in params_of(method, actors.config):
        for p in actors[role].parameters():
            p.grad = None


def _gradient(method: Method, actors: Actors, micros: list[Any]) -> Tensor:
    """Up to GRADIENTS numbers of the gradient as one vector, small tensors first; no gradient is left behind."""
    _drop_gradients(method, actors)
    try:
        accumulate(method, actors, micros)
        params = [p for role in params_of(method, actors.config) for p in actors[role].parameters() if p.requires_grad]
        chosen: list[Tensor] = []
        taken = 0
        for p in sorted(params, key=lambda p: p.numel()):
            if chosen and taken + p.numel() > GRADIENTS:
                break
            chosen.append((torch.zeros_like(p) if p.grad is None else p.grad).detach().cpu().double().flatten())
            taken += p.numel()
        return torch.cat(chosen)
    finally:
        _drop_gradients(method, actors)


def any_split(method: Method, actors: Actors, streams: Mapping[str, Any]) -> Finding:
    """The gradient of a batch is the same in the micro-batches that training will use and in the smallest ones."""
    small = _smaller(actors)
    batch = next(iter(method.batches(small, streams, method.State())))
    whole, parts = batch.split(small.config.micro_tokens), batch.split(1)
    if len(parts) <= len(whole):
        return Finding("any micro-batch", "note", f"{len(whole)} micro-batches can't be split further")
    first, again = _gradient(method, small, whole), _gradient(method, small, parts)
    size = float(first.norm())
    if max(size, float(again.norm())) < NO_GRADIENT:
        return Finding("any micro-batch", "note", "the first batch has no gradient: nothing in it to learn")
    gap = float((first - again).norm()) / max(size, NO_GRADIENT)
    gap = gap if gap == gap else float("inf")
    fine, broken = numerics.rounding(actors[next(iter(params_of(method, actors.config)))])
    saw = f"gradients of {len(whole)} and of {len(parts)} micro-batches differ by {gap:.1e} of their norm"
    do = "the loss is normalised within a micro-batch: divide by `weights` alone, and take statistics in `batches`"
    return graded("any micro-batch", gap, max(10 * fine, 1e-6), max(min(broken, 0.2), 1e-4), saw, do)


def lr_zero(
    method: Method, actors: Actors, sequences: numerics.Sequences, starts: Sequence[int], step: bool
) -> Finding:
    """Policy and reference give the same bits before the first step, and (with `step`) after one at lr = 0."""
    if step:
        optimizers = Optimizers(method, actors, actors.config)
        _drop_gradients(method, actors)
        for p in (p for group in optimizers.by_actor.values() for p in group):
            p.grad = torch.ones_like(p)
        optimizers.step(0.0)
        _drop_gradients(method, actors)
    with torch.no_grad():
        mine = answer_logps(actors.policy, sequences, starts)[0]
        theirs = answer_logps(actors.reference, sequences, starts)[0]
    gap = numerics.gap_of(mine, theirs)
    when = "after a step at lr = 0" if step else "before the first step"
    saw = f"{when} policy and reference differ by {gap:g} nats on {len(mine)} rows"
    do = "they are not the same model: the KL would begin away from zero; let both start from one folder"
    return Finding("lr = 0, KL = 0", "fail" if gap else "ok", saw, do if gap else "")


@contextlib.contextmanager
def _moved(model: Any) -> Iterator[None]:
    """The first and the last learning tensors of a model moved, and put back to the bit."""
    learning = [p for p in model.parameters() if p.requires_grad]
    chosen = list(dict.fromkeys([*learning[:2], *learning[-2:]]))
    before = [p.detach().clone() for p in chosen]
    try:
        with torch.no_grad():
            for p in chosen:
                p.add_(1.0)
        yield
    finally:
        with torch.no_grad():
            for p, was in zip(chosen, before, strict=True):
                p.copy_(was)


def frozen_stand_still(
    method: Method, actors: Actors, sequences: numerics.Sequences, starts: Sequence[int]
) -> list[Finding]:
    """Models that do not learn say the same while those that learn are moved: no shared weights, no shared switch."""
    needs = needs_of(method, actors.config)
    frozen = [r for r in needs if r not in params_of(method, actors.config)]

    def outputs() -> dict[str, list[Tensor]]:
        says = {
            "reward": lambda model: list(scores(model, sequences)),
            "value": lambda model: token_values(model, sequences, starts),
            "causal": lambda model: answer_logps(model, sequences, starts)[0],
        }
        with torch.no_grad():
            return {r: says[needs[r]](actors[r]) for r in frozen}

    before, moved = outputs(), set()
    for role in params_of(method, actors.config):
        with _moved(actors[role]):
            after = outputs()
        moved |= {r for r in frozen if any(not torch.equal(a, b) for a, b in zip(after[r], before[r], strict=True))}
    return [
        Finding(
            f"{role} stands still",
            "fail" if role in moved else "ok",
            f"the {role} model {'moves' if role in moved else 'says the same'} when what learns is moved",
            "it shares weights with a model that learns: give it a copy of its own" if role in moved else "",
        )
        for role in frozen
    ]


def _few(items: Sequence[Any], n: int, room: int) -> tuple[list[list[int]], list[int]]:
    """`n` sequences of different lengths, cut to `room`, and where the answer of each begins."""
    found = [r for r in rows.rows_of(items[: 8 * n]) if len(r.ids) > 1]
    found.sort(key=lambda r: len(r.ids))
    step = max(1, len(found) // n)
    chosen = found[::step][:n]
    sequences = [list(r.ids[:room]) for r in chosen]
    starts = [r.start if any(r.trained) else 1 for r in chosen]
    return sequences, [min(start, len(s) - 1) for start, s in zip(starts, sequences, strict=True)]


def _items(stream: Any) -> Sequence[Any]:
    """The items of a stream, packed or not, as they stand in the file."""
    found: Sequence[Any] = stream.stream.items if hasattr(stream, "stream") else stream.items
    return found


def asked_of(record: Any) -> list[Asked]:
    """The prompt and the answers of a parsed row, if it has such."""
    prompt = getattr(record, "prompt", None)
    if prompt is None or not hasattr(prompt, "messages"):
        return []
    candidates = getattr(record, "candidates", None)
    answers = [c.answer for c in candidates] if candidates else [getattr(record, "answer", "")]
    return [(prompt.messages, a) for a in answers if isinstance(a, str) and a.strip()]


def first_asked(path: Path, kind: str, n: int) -> list[Asked]:
    """Prompts and answers of the first rows of a file that can be read."""
    found: list[Asked] = []
    for row in islice(data.parsed(path, data.PARSERS[kind]), 10 * n):
        if len(found) >= n:
            break
        found += asked_of(row[1]) if isinstance(row, tuple) else []
    return found[:n]


def data_findings(
    name: str, kind: str, path: Path, items: Sequence[Any], rejects: Sequence[dict[str, Any]], tokenizer: Any,
    context: int, quick: bool,
) -> list[Finding]:  # fmt: skip
    """Checks of one stream's rows and of how they are rendered; several streams are told apart by their field."""
    looked = items[:LOOKED_AT] if quick else items
    asked = first_asked(path, kind, 8 if quick else 64) if kind != "text" else []
    found = [rows.counts(path.name, len({i.where for i in items}), rejects)]
    found += attempt("rows", rows.examine, looked, kind, context)
    found += attempt("tokens", tokens.examine, tokenizer, rows.rows_of(looked), asked, kind)
    return [dataclasses.replace(f, name=f"{name}: {f.name}") for f in found]


def model_findings(
    method: Method, actors: Actors, streams: Mapping[str, Any], context: int, quick: bool
) -> list[Finding]:
    """Checks of the models of a stage and of its method."""
    n, tok = (QUICK if quick else LEISURE), actors.tokenizer
    main = next(iter(streams.values()))
    sequences, starts = _few(_items(main), n, min(WIDTH, context))
    found: list[Finding] = []
    for role, kind in needs_of(method, actors.config).items():
        model = getattr(actors, role, None)
        if model is None or (quick and role == "reference"):
            continue
        weights = attempt(f"{role}: finite weights", numerics.finite_weights, model, role)
        found += [dataclasses.replace(f, name=f"{role}: finite weights") for f in weights]
        if worst(weights) != "ok":
            return found  # nothing that follows would mean anything
        named: list[Finding] = []
        if kind == "causal":
            named += attempt("log-probs", numerics.logprobs_agree, model, sequences, starts, tok.pad_token_id)
            named += attempt("packed = unpacked", numerics.packing_agrees, model, sequences, tok.pad_token_id)
        elif kind == "reward":
            named += attempt("scores", numerics.scores_agree, model, sequences, tok.pad_token_id)
            if role not in params_of(method, actors.config):
                named += attempt("head", numerics.blank_head, model, role)
        elif kind == "value":
            named += attempt("values", numerics.values_agree, model, sequences, starts)
        found += [dataclasses.replace(f, name=f"{role}: {f.name}") for f in named]
    found += _online(method, actors, main, n, context)
    if getattr(actors, "reference", None) is not None and getattr(actors, "policy", None) is not None:
        found += attempt("lr = 0, KL = 0", lr_zero, method, actors, sequences, starts, not quick)
    found += attempt("frozen models", frozen_stand_still, method, actors, sequences, starts)
    if worst(found) != "fail":  # a batch of a broken stage only says the same again, less clearly
        found += attempt("any micro-batch", any_split, method, actors, streams)
    return found


def _online(method: Method, actors: Actors, main: Any, n: int, context: int) -> list[Finding]:
    """What only a method that samples needs: the sampler, and what its reward model likes."""
    if method.EATS and next(iter(method.EATS.values())) != "prompts":
        return []
    c, tok = actors.config, actors.tokenizer
    new = min(16, getattr(c, "max_new", 16))
    prompts = [list(i.ids) for i in _items(main)[:n]]
    temperature = getattr(c, "temperature", 1.0)
    found = attempt(
        "sampler = trainer", numerics.sampler_agrees, actors.policy, prompts, tok.eos_token_id, temperature, new,
        ("doctor", actors.seed, actors.stage),
    )  # fmt: skip
    judge = getattr(actors, "reward", None)
    if judge is not None and "reward" not in params_of(method, actors.config):

        def score(sequences: list[list[int]]) -> list[float]:
            with torch.no_grad():
                return [float(s) for s in scores(judge, sequences)]

        drawn = sample(
            actors.policy, prompts, [("doctor", actors.seed, actors.stage, i) for i in range(len(prompts))],
            Sampling(temperature=temperature, max_new=new), tok.eos_token_id,
        )  # fmt: skip
        room = min(WIDTH, context) - max(map(len, prompts))
        found += attempt(
            "reward model", reward.sanity, score, prompts, [a.ids for a in drawn], max(room, 2), tok.eos_token_id
        )
    return found


def examine(stage: Stage, method: Method, actors: Actors, streams: Mapping[str, Any], quick: bool) -> list[Finding]:
    """Every check of a stage whose actors and streams are loaded."""
    config = actors.config
    limit = context_of(config.model)
    context = min(config.context or limit, limit)
    found: list[Finding] = []
    path = stage.path("rejects.jsonl")
    rejects = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []
    for number, (name, kind) in enumerate(method.EATS.items()):
        if name not in streams:
            continue
        plain, where = kind.removeprefix("packed-"), Path(getattr(config, name))
        bad = [r for r in rejects if r["where"].startswith(str(where))]
        items = _items(streams[name])
        found += data_findings(name, plain, where, items, bad, actors.tokenizer, context, quick)
        if number == 0:
            units = streams[name].rows_in(0) if hasattr(streams[name], "rows_in") else len(items)
            what = "packed rows" if kind.startswith("packed-") else "rows"
            found += attempt("batch", rows.against_batch, units, config.batch, what)
    return found + model_findings(method, actors, streams, context, quick)


def before(stage: Stage, method: Method, actors: Actors, streams: Mapping[str, Any]) -> list[Finding]:
    """The quick checks of a stage about to train, kept in doctor.json; a failure stops it before its first step."""
    found = examine(stage, method, actors, streams, quick=True)
    write_json(stage.path(REPORT), {"worst": worst(found), "findings": [dataclasses.asdict(f) for f in found]})
    bad = [f for f in found if f.level == "fail"]
    if bad:
        more = f" ({len(bad) - 1} more: {stage.path(REPORT)})" if len(bad) > 1 else ""
        raise RunError(
            f"stage {stage.name} is stopped before its first step: {bad[0].name}: {bad[0].saw}; {bad[0].do}{more}. "
            "`--no-doctor` trains regardless"
        )
    return found


def passed(stage: Stage) -> bool:
    """Whether a stage was examined before it was cut off, and nothing failed."""
    try:
        found = json.loads(stage.path(REPORT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return bool(found["worst"] != "fail")


def summary(found: Sequence[Finding]) -> list[str]:
    """What a person at the terminal is told before training: a count, and each warning."""
    return [f"doctor: {count(found)}", *(f"  {f.name}: {f.saw}; {f.do}" for f in found if f.level == "warn")]
