"""Exact checkpoints: the learning weights (adapters and heads alone with LoRA), the optimiser's state, the loss's scale
and the method's `State`, as safetensors and JSON.

Written whole or not at all (a temporary folder, fsync, rename), where a round begins; the newest readable one counts.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from kilter import runs
from kilter.errors import RunError
from kilter.runs import require_space, sync_folder, sync_folder_entry, write_json
from kilter.train.optim import LossScale, Optimizers


def save(folder: Path, optimizers: Optimizers, state: Any, progress: dict[str, Any], keep: int) -> Path:
    """Write checkpoint `round-<n>` and drop all but the newest `keep`."""
    tensors = {f"weight|{n}": p.detach().contiguous() for n, p in optimizers.weights().items()}
    tensors |= {f"optim|{n}": t.detach().contiguous() for n, t in optimizers.state().items()}
    kept: dict[str, Any] = {"scale": dataclasses.asdict(optimizers.scale)}
    folder.mkdir(parents=True, exist_ok=True)
    needed = int(1.1 * sum(t.numel() * t.element_size() for t in tensors.values())) + 1_000_000
    require_space(folder, needed, "a checkpoint")
    target = folder / f"round-{state.round:07d}"
    partial = folder / f".{target.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        save_file(_unshared(tensors), partial / "tensors.safetensors")
        kept["tensors"] = sorted(tensors)
        kept["sha256"] = runs.hash_path(partial / "tensors.safetensors")
        write_json(partial / "state.json", {"state": dataclasses.asdict(state), **kept, **progress})
        sync_folder(partial)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)  # a full disk is not helped by half a checkpoint
        raise
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)
    sync_folder_entry(folder)
    for old in sorted(folder.glob("round-*"))[:-keep]:
        shutil.rmtree(old)
    return target


def _unshared(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """safetensors refuses two names for one memory; parameters() already lists tied weights once, but scalars and the
    quantisation maps of 8-bit state are shared by many."""
    seen: set[int] = set()
    found = {}
    for name, t in tensors.items():
        found[name] = t.clone() if t.ndim == 0 or t.data_ptr() in seen else t
        seen.add(t.data_ptr())
    return found


def load_newest(folder: Path, optimizers: Optimizers, state_type: type[Any]) -> tuple[Any, dict[str, Any]] | None:
    """Restore the newest readable checkpoint into weights and optimisers; (state, progress), or None where none is."""
    found = sorted(folder.glob("round-*"), reverse=True) if folder.is_dir() else []
    if not found:
        return None
    for newest in found:
        try:
            saved = json.loads((newest / "state.json").read_text(encoding="utf-8"))
            tensors = load_file(newest / "tensors.safetensors")
            names, digest = saved.pop("tensors"), saved.pop("sha256")
            if names == sorted(tensors) and digest != runs.hash_path(newest / "tensors.safetensors"):
                raise ValueError("its tensors are not the ones that were written")
            break
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            problem = f"checkpoint {newest} can't be read ({error})"
            if newest == found[-1]:
                raise RunError(f"{problem}; delete {folder} to begin this stage anew") from error
            print(f"{problem}; going on from the one before it", file=sys.stderr, flush=True)
    weights = {n.removeprefix("weight|"): t for n, t in tensors.items() if n.startswith("weight|")}
    learning = {n: p.shape for n, p in optimizers.weights().items()}
    if {n: t.shape for n, t in weights.items()} != learning:
        raise RunError(f"checkpoint {newest} holds other weights than this stage trains; delete it to begin anew")
    lost = [n for n in names if n not in tensors]
    if lost:
        raise RunError(f"checkpoint {newest} lacks the optimiser's {lost[0]}; delete it to begin anew")
    optimizers.load_weights(weights)
    optimizers.load_state({n.removeprefix("optim|"): t for n, t in tensors.items() if n.startswith("optim|")})
    optimizers.scale = LossScale(**saved.pop("scale"))
    return state_type(**saved.pop("state")), saved


def prune_best(folder: Path) -> None:
    """Drop the best weights of rounds that no kept checkpoint calls the best any more."""
    wanted = set()
    for kept in folder.glob("round-*/state.json"):
        try:
            best = json.loads(kept.read_text(encoding="utf-8")).get("best")
        except (OSError, ValueError):
            return  # a damaged checkpoint: what it calls the best can't be known
        wanted |= {f"best-{best['round']:07d}"} if best else set()
    for old in folder.glob("best-*"):
        if old.name not in wanted:
            shutil.rmtree(old)
