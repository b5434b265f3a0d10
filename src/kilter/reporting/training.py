"""Training seen over its steps: PPO's instruments, proxy against gold reward, and the learning curve of every stage."""

from __future__ import annotations

from kilter.reporting.charts import Chart, Points, Series, draw, smoothed
from kilter.reporting.files import Run, StageFiles, figure, mapping, rows
from kilter.reporting.layout import Section, card, folded, grid
from kilter.reporting.markup import Html, count, el, join, number, signed
from kilter.reporting.palette import OWN, nice

INSTRUMENTS = (
    ("reward", "Reward", "reward model", (), "What the policy is paid for. It should rise, then flatten."),
    (
        "kl",
        "Drift from the start",
        "nats per answer",
        (0.0,),
        "KL from the model that PPO began with: the price of the reward.",
    ),
    (
        "entropy",
        "Entropy",
        "nats per token",
        (0.0,),
        "A slow fall is learning; a drop to nought is collapse to one answer.",
    ),
    ("value_error", "Value error", "squared", (0.0,), "How far the value model is from the returns; it should fall."),
    (
        "clip_share",
        "Clipped",
        "share of tokens",
        (0.0,),
        "Tokens whose ratio left the trust region. Above 0.2: steps too big.",
    ),
    ("eos", "Answers that end", "share", (0.9, 1.0), "Below 0.97, answers begin to ramble to the limit."),
    ("length", "Length", "tokens", (), "Growth without better answers is the commonest hack."),
    (
        "kl_coef",
        "Price of drift",
        "\u03b2",
        (0.0,),
        "The coefficient of the KL penalty; constant unless a target is set.",
    ),
    (
        "grad_norm_policy",
        "Gradient norm",
        "policy",
        (0.0,),
        "Before clipping. Spikes mean that a batch disagreed with all before.",
    ),
)
"""Metric, title, unit, values the axis must reach, how to read it."""

CURVES: dict[str, tuple[str, ...]] = {
    "pretrain": ("nll", "lr", "grad_norm"),
    "sft": ("nll", "corpus", "lr", "grad_norm"),
    "reward": ("ranking", "accuracy", "margin", "reward_mean", "lr", "grad_norm"),
    "dpo": ("loss", "accuracy", "gains", "lr", "grad_norm"),
}
TITLES = {
    "nll": ("Loss", "nats per token", "Negative log-likelihood on the rows of each step, as it meets them."),
    "corpus": ("Corpus rows", "nats per token, weighted", "Mixed in so that plain language is not forgotten."),
    "loss": ("Loss", "", "What is minimised; a half below the first value is much for preferences."),
    "ranking": ("Ranking loss", "nats per pair", "log 2 = 0.69 is guessing."),
    "accuracy": (
        "Pairs in the right order",
        "share",
        "Share of pairs of each step whose better answer comes first, before its step.",
    ),
    "margin": ("Margin", "reward", "Mean reward of the better answer less that of the worse."),
    "reward_mean": ("Mean reward", "", "Kept near nought by the centring term."),
    "gain_better": ("Gain, better answer", "nats", ""),
    "gain_worse": ("Gain, worse answer", "nats", ""),
    "lr": ("Learning rate", "", ""),
    "grad_norm": ("Gradient norm", "before clipping", ""),
}
ASIDE = ("lr", "grad_norm", "reward_mean")
"""Curves that go behind a fold where there is no room beside the others."""
QUIET = {"step", "round", "seconds", "tokens", "tokens_trained", "rows", "loss"}
"""Columns that are no curve of their own where a method is unknown."""


def ppo_sections(run: Run) -> list[Section]:
    stages = [s for s in run.stages if s.column("kl") and s.column("reward")]
    return [_ppo(s, len(stages) > 1) for s in stages]


def _ppo(stage: StageFiles, several: bool) -> Section:
    target = figure(stage.config.get("kl_target"))
    figures = []
    for key, title, unit, include, hint in INSTRUMENTS:
        level = (target, f"target {number(target)}") if key == "kl" and target else None
        figures.append(
            draw(
                Chart(
                    title,
                    [Series(stage.by_round(key))],
                    unit,
                    hint,
                    x="round",
                    colour=_colour(stage),
                    include=include,
                    target=level,
                )
            )
        )
    name = nice(stage.method)
    return Section(
        f"rl-{_slug(stage.name)}",
        f"{name}, round by round" + (f" ({stage.name})" if several else ""),
        grid(figures),
        f"A round samples a batch of answers, scores them and takes a few steps. {name} has many ways to fail quietly; "
        "these are the instruments that show them. Thin lines are the raw values.",
    )


HELDOUT = (
    (
        "reward",
        "Reward",
        "in training's units",
        (),
        "On prompts that are never trained on; the dashed line is the start.",
    ),
    ("win_rate", "Win rate", "against the start", (0.5,), "Share of prompts whose answer got more than the start's."),
    ("kl", "Drift from the start", "nats per answer", (0.0,), "What the reward was bought with."),
    ("length", "Length", "tokens", (), "Growth without better answers is the commonest hack."),
    ("eos", "Answers that end", "share", (0.9, 1.0), "Below 0.97, answers begin to ramble to the limit."),
)
"""Column of eval.jsonl, title, unit, values the axis must reach, how to read it."""


def heldout_section(run: Run) -> Section:
    """Figures on held-out prompts during training, and which round's weights were kept as the best."""
    parts = []
    for stage in run.stages:
        if not stage.heldout("reward"):
            continue
        figures = []
        for key, title, unit, include, hint in HELDOUT:
            series = [Series(stage.heldout(key))]
            series += [Series(stage.heldout("reward_start"), "start", dashed=True)] if key == "reward" else []
            figures.append(draw(Chart(title, series, unit, hint, x="round", colour=_colour(stage), include=include,
                                      marks=True, smooth=False)))  # fmt: skip
        best = figure(mapping(stage.done.get("best")).get("round"))
        kept = f"best/ holds the weights of round {best:.0f}" if best is not None else "not finished"
        head = el("h3", stage.name, el("small", f"{nice(stage.method)} \u00b7 {kept}"))
        parts.append(el("div", head, grid(figures), class_="stage"))
    return Section(
        "heldout",
        "On held-out prompts",
        join(parts),
        "The same draws for every round and for the start. Kept is the round with the most reward less the price of "
        "its drift.",
    )


def optimisation_section(run: Run) -> Section:
    """Proxy against gold reward, both over KL: where they part, the policy games its reward model."""
    curve: list[tuple[float, float, float, float]] = []
    for row in rows(run.summary.get("ppo_curve")):
        values = [figure(row.get(k)) for k in ("round", "kl", "proxy", "gold")]
        if all(v is not None for v in values):
            curve.append(tuple(values))  # type: ignore[arg-type]
    curve.sort()
    if len(curve) < 3:
        return Section("optimisation", "Does the reward stay true?", Html(""))
    window = max(3, len(curve) // 6)
    drift = [k for _, k in smoothed([(r, k) for r, k, _, _ in curve], window)]
    proxy = [p for _, p in smoothed([(r, p) for r, _, p, _ in curve], window)]
    gold = [g for _, g in smoothed([(r, g) for r, _, _, g in curve], window)]
    figures = [
        _trail("Proxy reward", "by the reward model", list(zip(drift, proxy, strict=True)), "m5", curve),
        _trail("Gold reward", "by the oracle", list(zip(drift, gold, strict=True)), "m4", curve),
        card(
            el("h3", "How to read this"),
            el("p", _reading(drift, proxy, gold)),
            el(
                "p",
                "Each dot is a round; further right is further from where training began. Both rising: the reward "
                "model points where it should. Proxy rising while gold falls: over-optimisation, the policy has found "
                "what the reward model likes and people would not (Gao et al. 2023).",
            ),
            kind="reading",
        ),
    ]
    return Section(
        "optimisation",
        "Does the reward stay true?",
        grid(figures),
        "A reward model is a stand-in for judgement. The same answers, scored by it and by the oracle.",
    )


def _trail(title: str, unit: str, points: Points, colour: str, curve: list[tuple[float, float, float, float]]) -> Html:
    return draw(
        Chart(
            title,
            [Series(points)],
            unit,
            x="KL from the start, nats per answer",
            colour=colour,
            marks=True,
            smooth=False,
            height=260,
            notes=[(*points[-1], f"round {curve[-1][0]:.0f}")],
        )
    )


def _reading(drift: list[float], proxy: list[float], gold: list[float]) -> str:
    """What the two curves say together, in a sentence that claims no more than they show."""
    peak = max(range(len(gold)), key=lambda i: gold[i])
    fallen, gained, paid = gold[peak] - gold[-1], gold[-1] - gold[0], proxy[-1] - proxy[0]
    begin = f"From first to last round the proxy moves by {signed(paid)} and gold by {signed(gained)}. "
    where = f"Gold was highest at {drift[peak]:.2f} nats and has fallen by {fallen:.2f} since"
    if fallen > 0.03 and proxy[-1] > proxy[peak]:
        return (
            begin
            + where
            + (
                ", while the proxy went on rising: this run is over-optimised, and an earlier stop or a higher price "
                "of drift would have been better."
            )
        )
    if fallen > 0.03:
        return begin + where + ", and the proxy with it: no over-optimisation, the training itself lost its way."
    if gained > 0.02 and paid > 0:
        return begin + "They rise together, and gold ends at or near its highest: no sign of over-optimisation."
    if gained > 0.02:
        return begin + "Gold rises without the proxy, which is luck more than learning."
    if paid > 0.1:
        return begin + "Gold hardly moves: the reward model pays for something that the oracle does not see."
    return begin + "Neither moves much: the policy has learned little."


def curves_section(run: Run) -> Section:
    """Every stage with metrics that is no reinforcement learning: its own figures, the optimiser's behind a fold."""
    parts = []
    for stage in run.stages:
        if not stage.metrics or (stage.column("kl") and stage.column("reward")):
            continue
        main: list[Html] = []
        optimiser: list[Html] = []
        for key in _keys(stage):
            found = _curve(stage, key)
            if found:
                (optimiser if key in ASIDE else main).append(found)
        if not main and not optimiser:
            continue
        while len(main) < 3 and optimiser:  # a row of the grid holds three
            main.append(optimiser.pop())
        steps = f"{count(len(stage.metrics))} steps" + ("" if stage.finished else ", not finished")
        head = el(
            "h3",
            stage.name,
            el("small", f"{nice(stage.method)} \u00b7 {steps}" if stage.method != stage.name else steps),
        )
        parts.append(
            el(
                "div",
                head,
                grid(main),
                folded("More curves of this stage", grid(optimiser)) if optimiser else None,
                class_="stage",
            )
        )
    return Section(
        "curves", "Learning curves", join(parts), "The bold line is a moving mean, the faint one each step as it was."
    )


def _keys(stage: StageFiles) -> list[str]:
    if stage.method in CURVES:
        keys = list(CURVES[stage.method])
        present = {k for row in stage.metrics[:50] for k in row}
        if not present & set(keys[:2]):
            keys.insert(0, "loss")
        return keys
    seen = dict.fromkeys(
        k for row in stage.metrics[:50] for k, v in row.items() if figure(v) is not None and k not in QUIET
    )
    return ["loss", *list(seen)[:8]]


def _curve(stage: StageFiles, key: str) -> Html:
    colour = _colour(stage)
    if key == "gains":
        pair = [
            Series(stage.column("gain_better"), "better", "m4"),
            Series(stage.column("gain_worse"), "worse", "m3", dashed=True),
        ]
        return draw(
            Chart(
                "Log-probability gained",
                pair,
                "nats per answer",
                "Against the start. The gap between the two is what DPO widens; both falling far is a warning.",
                colour=colour,
                include=(0.0,),
            )
        )
    title, unit, hint = TITLES.get(key, (key.replace("_", " "), "", ""))
    include = (0.0,) if key in ("lr", "grad_norm") else (0.5,) if key == "accuracy" else ()
    level = (0.6931, "guessing") if key == "ranking" else (0.5, "guessing") if key == "accuracy" else None
    points = stage.column(key)
    if key == "accuracy" and points and points[0][1] == 0:
        points = points[1:]  # before the first step all answers score alike, and a tie is no pair in the right order
    plan = key == "lr"  # what was planned is no measurement: neither smoothed nor summed up by where it ends
    return draw(
        Chart(
            title,
            [Series(points)],
            unit,
            hint,
            colour=colour,
            include=include,
            target=level,
            smooth=not plan,
            final=not plan,
        )
    )


def _colour(stage: StageFiles) -> str:
    known = {"pretrain": 0, "reward": 5, **OWN}
    return f"m{known.get(stage.method, 1)}"


def _slug(name: str) -> str:
    """A name as an anchor."""
    return "".join(c if c.isascii() and c.isalnum() else "-" for c in name) or "stage"
