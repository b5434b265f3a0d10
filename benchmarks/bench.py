"""Kilter side by side with TRL 1.16 (and 1.12 for PPO): `python bench.py --quick`, or `--full`.

Each measurement is a process of its own on one core; sides take turns within a repeat. What is finished is kept as a
line of `.work/measurements.jsonl`, so a run that was cut off goes on where it stood, and one that is asked for again
measures only what has changed. The table prints a ratio only where its gate has passed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matrix
import table
import venvs
from matrix import CASES, DATA, HERE, WORK, Case

STORE = WORK / "measurements.jsonl"
LIMIT = 1800
"""Seconds after which a measurement is given up."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    size = parser.add_mutually_exclusive_group(required=True)
    size.add_argument("--quick", action="store_true", help="one repeat of the tiny cases: minutes")
    size.add_argument("--full", action="store_true", help="every case with all its repeats: about an hour")
    size.add_argument("--table", action="store_true", help="measure nothing, print what there is")
    parser.add_argument("--only", default="", help="cases whose name has this in it, e.g. 'dpo' or 'small bf16'")
    parser.add_argument("--core", type=int, default=(os.cpu_count() or 1) - 1, help="the core that measurements run on")
    args = parser.parse_args()
    WORK.mkdir(exist_ok=True)
    pythons = {name: WORK / f"venv-{name}" / "bin" / "python" for name in venvs.NEEDS}
    if not args.table:
        pythons = {name: venvs.python_of(name) for name in venvs.NEEDS}
        subprocess.run([pythons["kilter"], HERE / "rows.py", DATA], check=True, stderr=subprocess.DEVNULL)
    bench = Bench(Store(STORE), pythons, args.core)
    if not args.table:
        for case in CASES:
            if args.only in case.name and (case.quick or args.full):
                if case.precision == "bf16" and not table.bf16_instructions():
                    print(f"{case.name}: skipped, this processor has no bf16 instructions (amx_bf16, avx512_bf16)")
                    continue
                bench.run(case, quick=args.quick)
    rows = [row for case in CASES for row in table.rows_of(case, bench.found(case))]
    print(table.text(rows))
    table.write(rows, bench.versions)


class Store:
    """Finished measurements by key: a JSON line each, written when it is finished; a torn last line is dropped."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.found: dict[str, dict[str, Any]] = {}
        for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
            try:
                row = json.loads(line)
            except ValueError:
                continue
            self.found[row["key"]] = row["result"]

    def add(self, key: str, name: str, result: dict[str, Any]) -> None:
        self.found[key] = result
        torn = self.path.is_file() and not self.path.read_bytes().endswith(b"\n") and self.path.stat().st_size
        with open(self.path, "a", encoding="utf-8") as out:
            out.write(("\n" if torn else "") + json.dumps({"key": key, "name": name, "result": result}) + "\n")


class Bench:
    """Runs what is missing, and finds what is there."""

    def __init__(self, store: Store, pythons: dict[str, Path], core: int) -> None:
        self.store, self.pythons, self.core = store, pythons, core
        self.versions = {name: venvs.versions_of(name) for name in venvs.NEEDS}
        self.sources = {side: matrix.sources(side) for side in ("ours", "rival")}

    def key(self, case: Case, side: str, setting: str, repeat: int) -> str:
        if setting.startswith("replay"):  # of the rival's rollouts: another round of theirs is another replay
            theirs = self.key(case, "rival", setting.removeprefix("replay "), repeat)
            return self.key(case, "ours", "", repeat) + theirs
        versions = self.versions[matrix.venv_of(side, case)]
        return matrix.key(case, side, setting, repeat, versions, self.sources[side])

    def run(self, case: Case, quick: bool) -> None:
        """All repeats of a case, the sides in turn."""
        for repeat in range(1 if quick else case.repeats):
            for side, setting in turns(case, quick, first=repeat == 0):
                if not self.measure(case, side, setting, repeat):
                    return

    def measure(self, case: Case, side: str, setting: str, repeat: int) -> bool:
        """One measurement, unless it is there; one that fails says why and is not kept. False: leave the case."""
        key, label = self.key(case, side, setting, repeat), f"{case.name}, {side} {setting}".rstrip()
        if key in self.store.found:
            return True
        print(f"{label}, repeat {repeat + 1}: ", end="", flush=True)
        began = time.monotonic()
        spec = case.spec(side, setting, repeat)
        module = matrix.runner(side, case)
        if setting.startswith("replay"):
            theirs = self.store.found.get(self.key(case, "rival", setting.removeprefix("replay "), repeat))
            if theirs is None:
                print("no rollouts of the rival's to replay")
                return True
            spec["first"], module = theirs["first"], "ours.replay"
        result = self.process(module, spec, self.pythons[matrix.venv_of(side, case)])
        if "failed" in result:
            print(f"failed: {result['failed']}")
            return True
        if "skipped" in result:
            print(f"skipped: {result['skipped']}")
            return False
        self.store.add(key, f"{label}, repeat {repeat + 1}", result)
        print(f"{time.monotonic() - began:.0f} s")
        return True

    def process(self, module: str, spec: dict[str, Any], python: Path) -> dict[str, Any]:
        """Run a runner in a process and folder of its own, on one core, off line; its result, or why there is none."""
        with tempfile.TemporaryDirectory() as folder:
            out, ask, rollouts = (Path(folder) / n for n in ("result.json", "spec.json", "rollouts.json"))
            if "first" in spec:
                rollouts.write_text(json.dumps(spec.pop("first")), encoding="utf-8")
            ask.write_text(json.dumps({**spec, "out": str(out), "rollouts": str(rollouts), "folder": folder}))
            pin = ["taskset", "-c", str(self.core)] if shutil.which("taskset") else []
            command = [*pin, str(python), "-m", module, str(ask)]
            try:
                done = subprocess.run(
                    command, cwd=HERE, env=environment(folder), capture_output=True, text=True, timeout=LIMIT
                )
            except subprocess.TimeoutExpired:
                return {"failed": f"not finished after {LIMIT} s"}
            if done.returncode or not out.is_file():
                return {"failed": (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]}
            found: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
            return found

    def found(self, case: Case) -> dict[tuple[str, str], list[dict[str, Any]]]:
        """(side, setting) → the case's measurements that are there, by repeat."""
        out: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for repeat in range(case.repeats):
            for side, setting in turns(case, quick=False, first=repeat == 0):
                result = self.store.found.get(self.key(case, side, setting, repeat))
                if result is not None:
                    out.setdefault((side, setting), []).append(result)
        if case.precision == "bf16":
            for other in CASES:
                if (other.bench, other.model, other.precision) == (case.bench, case.model, "fp32"):
                    out[("rival", "exact")] = self.found(other).get(("rival", "tuned"), [])
        return out


def turns(case: Case, quick: bool, first: bool) -> Iterator[tuple[str, str]]:
    """(side, setting) in the order in which they are measured in a repeat; replays belong to the first."""
    settings = case.quick if quick else case.settings
    yield "ours", ""
    for setting in settings:
        yield "rival", setting
        if first and (case.method == "ppo" or (case.method in ("grpo", "rloo") and setting == "tuned")):
            yield "ours", f"replay {setting}"


def environment(folder: str) -> dict[str, str]:
    """One thread, no network, and caches that end with the measurement."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "PYTHON", "OMP_", "MKL_", "KILTER"))}
    return kept | {
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HOME": folder,
        "TOKENIZERS_PARALLELISM": "false",
        "CUDA_VISIBLE_DEVICES": "",
        "TQDM_DISABLE": "1",
        "KILTER_QUIET": "1",
    }


if __name__ == "__main__":
    sys.exit(main())
