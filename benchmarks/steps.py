"""Milliseconds per optimiser step of a method at the sandbox's shapes, on random weights.

    python benchmarks/steps.py --method pretrain                      one step, median of 30
    python benchmarks/steps.py --method dpo --threads 1               ranked answers on one thread
    GOMP_SPINCOUNT=300000 python benchmarks/steps.py --beside 1       spinning threads beside one busy process

Quote ratios of runs made in turn, not single figures: two busy cores are noisy.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", choices=("pretrain", "sft", "reward", "dpo"), default="pretrain")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--beside", type=int, default=0, help="busy processes beside the measured one")
    args = parser.parse_args()
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(args.beside)]
    with tempfile.TemporaryDirectory() as folder:
        seconds = measure(args, Path(folder))
    for other in others:
        other.terminate()
    print(
        f"{args.method}: {1000 * statistics.median(seconds):.1f} ms a step (min {1000 * min(seconds):.1f}, "
        f"max {1000 * max(seconds):.1f}, {len(seconds)} steps, {args.threads} threads)"
    )


def measure(args: argparse.Namespace, folder: Path) -> list[float]:
    """Seconds of each step, after five to warm up."""
    import torch

    import kilter  # noqa: F401  (sets the wait policy before torch is imported, unless the user has)
    from kilter import pipeline, recipes, runs
    from kilter.config import build
    from kilter.models.roles import load_actors
    from kilter.sandbox import build as world
    from kilter.sandbox.show import export
    from kilter.train.loop import accumulate, load_streams
    from kilter.train.optim import Optimizers

    torch.set_num_threads(args.threads)
    stage = runs.Stage("world", folder, world.Config(), 1)
    world.blank_model(stage, stage.config)
    from kilter.models.load import fresh, load_tokenizer, save

    tokenizer = load_tokenizer(str(folder / "blank"))
    save(fresh(str(folder / "blank"), 1), tokenizer, folder / "model")
    kind = {"pretrain": "corpus", "sft": "demos"}.get(args.method, "rankings")
    export(kind, 3000 if kind != "rankings" else 600, 1, folder / "rows.jsonl")
    method = pipeline.load_module(recipes.find_source(args.method))
    config = build(method.Config, {"model": str(folder / "model"), "data": str(folder / "rows.jsonl")}, args.method)
    actors = load_actors(method, config, 1, args.method)
    streams = load_streams(runs.Stage(args.method, folder, config, 1), method, actors)
    optimizers = Optimizers(method, actors, config)
    seconds = []
    for number in range(args.steps + 5):
        began = time.perf_counter()
        state = method.State(round=number % method.rounds(config, streams) + 1)
        for batch in method.batches(actors, streams, state):
            accumulate(method, actors, batch.split(config.micro_tokens))
            optimizers.step(0.0)
            optimizers.zero_grad()
        seconds.append(time.perf_counter() - began)
    return seconds[5:]


if __name__ == "__main__":
    main()
