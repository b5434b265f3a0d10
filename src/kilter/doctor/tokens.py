"""Checks of tokenizer and template, on rows as they are really rendered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kilter.data import render
from kilter.data.records import Message
from kilter.doctor.finding import Finding, Span
from kilter.doctor.rows import Row

Asked = tuple[Sequence[Message], str]
"""A conversation up to the turn that is wanted, and an answer to it."""


def special_tokens(tokenizer: Any) -> Finding:
    """There is an eos, there is a pad, and they differ."""
    eos, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    if eos is None:
        return Finding("pad and eos", "fail", "the tokenizer has no eos token", "set `eos_token` and save it")
    if pad is None:
        return Finding("pad and eos", "fail", "there is no pad token", "set `pad_token` (not the eos) and save it")
    if pad == eos:
        saw = f"pad and eos are the same token {tokenizer.eos_token!r}: an answer's end reads as padding"
        return Finding("pad and eos", "fail", saw, "set another `pad_token` and save the tokenizer")
    return Finding("pad and eos", "ok", f"eos is {tokenizer.eos_token!r}, pad {tokenizer.pad_token!r}")


def eos_trained(rows: Sequence[Row], eos: int, may_be_cut: bool = False) -> Finding:
    """Every trained stretch that ends a row ends with eos: a model that never sees it never stops.

    With `may_be_cut`, rows may hold sampled answers that are known to have been cut off.
    """
    rows = [r for r in rows if any(r.trained)]
    ended = sum(r.ids[-1] == eos and bool(r.trained[-1]) for r in rows)
    saw = f"eos is trained at the end of {ended} of {len(rows)} sequences"
    if rows and not ended:
        do = "the model would never learn to stop: let answers end with the eos token"
        return Finding("eos trained", "warn" if may_be_cut else "fail", saw, do)
    if ended < len(rows):
        return Finding("eos trained", "note", f"{saw}; the others were cut off before their end")
    return Finding("eos trained", "ok", saw)


def bos_count(tokenizer: Any, rows: Sequence[Row], templated: bool) -> Finding:
    """One BOS at the front where the model wants one: the template and the tokenizer must not both add it."""
    bos = tokenizer.bos_token_id
    if bos is None or bos == tokenizer.eos_token_id:
        return Finding("BOS", "ok", "the tokenizer has no BOS token of its own")
    fronts = [sum(i == bos for i in r.ids[: next((n for n, i in enumerate(r.ids) if i != bos), 0)]) for r in rows]
    most, least = max(fronts, default=0), min(fronts, default=0)
    saw = f"sequences begin with {least} to {most} BOS tokens ({tokenizer.bos_token!r})"
    if most > 1:
        return Finding("BOS", "fail", saw, "take BOS out of the messages or out of the chat template: one is enough")
    own = tokenizer("a")["input_ids"][:1] == [bos]
    if own and not least and templated:
        saw += "; the tokenizer would add one by itself"
        return Finding("BOS", "warn", saw, "if the model was trained with BOS, write it into the chat template")
    return Finding("BOS", "ok", saw)


def prefix(tokenizer: Any, asked: Sequence[Asked]) -> Finding:
    """The ids that a model is asked with are the first ids of what it is trained on."""
    prompts = render.prompt_ids(tokenizer, [p for p, _ in asked])
    done = render.answered(tokenizer, [p for p, _ in asked], [a for _, a in asked])
    bad = [n for n, (p, whole) in enumerate(zip(prompts, done, strict=True)) if whole.ids[: len(p)] != p]
    saw = f"the prompt is a prefix of prompt and answer in {len(asked) - len(bad)} of {len(asked)} rows"
    if not bad:
        return Finding("prompt is a prefix", "ok", saw)
    return Finding(
        "prompt is a prefix",
        "warn",
        saw,
        "the chat template opens a turn in another way than it writes one: the model is asked what it never saw; "
        "mend the template",
    )


def as_transformers(tokenizer: Any, asked: Sequence[Asked]) -> Finding:
    """What is trained is what `apply_chat_template` gives whoever uses the model elsewhere."""
    mine = render.prompt_ids(tokenizer, [p for p, _ in asked])
    theirs = [
        tokenizer.apply_chat_template(
            [dict(m) for m in p], add_generation_prompt=True, tokenize=True, return_dict=False
        )
        for p, _ in asked
    ]
    other = sum(list(t) != m for t, m in zip(theirs, mine, strict=True))
    saw = f"{len(asked) - other} of {len(asked)} prompts have the ids that transformers gives them"
    if not other:
        return Finding("prompt as in transformers", "ok", saw)
    return Finding("prompt as in transformers", "note", f"{saw}; a message that spells a control token is text here")


def template_end(tokenizer: Any, asked: Sequence[Asked]) -> Finding:
    """The template closes an answer with the eos that stops the sampler."""
    conversation = [*(dict(m) for m in asked[0][0]), {"role": "assistant", "content": "\ufdd0"}]
    text: str = tokenizer.apply_chat_template(conversation, tokenize=False)
    after = text.rpartition("\ufdd0")[2]
    if tokenizer.eos_token in after:
        return Finding("template's end", "ok", f"the template closes an answer with {after.strip()!r}")
    saw = f"the template closes an answer with {after.strip()!r}, not with the eos token {tokenizer.eos_token!r}"
    do = "eos is trained instead; if the model knows the template's mark, make that the eos token"
    return Finding("template's end", "warn", saw, do)


def spans(tokenizer: Any, row: Row) -> list[Span]:
    """A row as text, in stretches that are trained or not."""
    found: list[Span] = []
    begin = 0
    for end in range(1, len(row.ids) + 1):
        if end == len(row.ids) or bool(row.trained[end]) != bool(row.trained[begin]):
            text = tokenizer.decode(list(row.ids[begin:end]), skip_special_tokens=False)
            found.append((text, bool(row.trained[begin])))
            begin = end
    return found


def examine(tokenizer: Any, rows: Sequence[Row], asked: Sequence[Asked], kind: str) -> list[Finding]:
    """All checks of this file that suit a kind of rows."""
    templated = kind != "text"
    found = [special_tokens(tokenizer)]
    if found[0].level == "fail":
        return found
    if any(any(r.trained) for r in rows):
        found.append(eos_trained(rows, tokenizer.eos_token_id, may_be_cut=kind != "demonstrations"))
    found.append(bos_count(tokenizer, rows, templated))
    if templated and asked:
        found += [prefix(tokenizer, asked), as_transformers(tokenizer, asked), template_end(tokenizer, asked)]
    return found
