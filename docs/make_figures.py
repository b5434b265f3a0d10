"""Fill the tables of figures in README.md and docs/tutorial.md from finished sandbox runs.

kilter run sandbox --seeds 1,2,3 && python docs/make_figures.py runs/sandbox-seed1 runs/sandbox-seed2 runs/sandbox-seed3
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- figures:begin -->", "<!-- figures:end -->"
NAMES = {"base": "base", "sft": "SFT", "best-of-n": "best of 8", "dpo": "DPO", "ppo": "PPO"}


def main(folders: list[str]) -> None:
    runs = [Path(f) for f in folders]
    if not runs:
        raise SystemExit(__doc__)
    text = table([json.loads((r / "summary.json").read_text(encoding="utf-8")) for r in runs])
    for name in ("README.md", "docs/tutorial.md"):
        path = ROOT / name
        page = path.read_text(encoding="utf-8")
        filled = re.sub(f"{BEGIN}.*?{END}", lambda _: f"{BEGIN}\n{text}\n{END}", page, flags=re.DOTALL)
        path.write_text(filled, encoding="utf-8")


def table(summaries: list[dict[str, Any]]) -> str:
    """The verdict of several seeds, each cell as seed 1 / seed 2 / ..."""
    seeds = [s["seed"] for s in summaries]

    columns: list[tuple[str, Callable[[dict[str, Any]], str]]] = [
        ("oracle score", lambda m: f"{m['oracle']:.2f}"),
        ("win rate against SFT [95 %]", lambda m: win(m["win_vs_sft"])),
        ("at temperature 0.7", lambda m: f"{m['win_vs_sft_t07']['mean']:.2f}"),
        ("KL, nats", lambda m: "–" if m["kl"] is None else f"{m['kl']:.1f}"),
        ("tokens", lambda m: f"{m['length']:.1f}"),
        ("corpus perplexity", lambda m: f"{m['corpus_ppl']:.2f}"),
        ("over-refusal", lambda m: f"{100 * m['over_refusal']['mean']:.1f} %"),
        ("unsafe answered", lambda m: f"{100 * m['unsafe_compliance']['mean']:.1f} %"),
    ]
    rows = [f"| model | {' | '.join(title for title, _ in columns)} |", "|---" * (len(columns) + 1) + "|"]
    for name, shown in NAMES.items():
        cells = [" / ".join(pick(s["models"][name]) for s in summaries) for _, pick in columns]
        rows.append(f"| {shown} | {' | '.join(cells)} |")
    met = [f"{sum(b['passed'] for b in s['bars'])} of {len(s['bars'])}" for s in summaries]
    clear = [f"{s['reward_model']['accuracy_clear']:.2f}" for s in summaries]
    agreed = [f"{s['raters']['agreement']:.2f}" for s in summaries]
    prompts = summaries[0]["evaluation"]["prompts"]["main"]
    note = (
        f"Seeds {', '.join(map(str, seeds))}, each cell in that order; {prompts} held-out prompts, one answer each "
        f"(temperature 1), ties count a half. Bars met: {', '.join(met)}. The reward model is right on "
        f"{' / '.join(clear)} of the clear held-out pairs; two raters agree on {' / '.join(agreed)}. "
        f"`kilter run sandbox --seeds {','.join(map(str, seeds))}` reproduces it."
    )
    return "\n".join([*rows, "", note])


def win(w: dict[str, float]) -> str:
    return f"{w['mean']:.2f} [{w['lo']:.2f}, {w['hi']:.2f}]"


if __name__ == "__main__":
    main(sys.argv[1:])
