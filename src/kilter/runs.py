"""The run directory: what is on disk, whole or not at all, and how we know that it is still true.

runs/<name>/
  LOCK  recipe.yaml  run.json          the resolved recipe; versions, threads, machine
  <stage>/  stage.json                 the stage's configuration, inputs' hashes and key
            doctor.json                what was found before the first step
            metrics.jsonl samples.jsonl checkpoints/  outputs...
            DONE                       the key, the outputs' hashes, seconds and peak memory
  .superseded/<stage>-<n>/             what an edited recipe replaced; never overwritten
"""

from __future__ import annotations

import ast
import contextlib
import errno
import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kilter.config import PACKAGE
from kilter.errors import RunError, UserError

DONE = "DONE"
SPENT = ".spent"
"""How long the attempts at a stage took so far."""
NOT_OUTPUT = {DONE, "stage.json", "doctor.json", "metrics.jsonl", "rejects.jsonl", "checkpoints", SPENT}
"""What a stage keeps for people and for itself; everything else in its folder is its output."""


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    with open(partial, "w", encoding="utf-8") as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())
    os.replace(partial, path)


def write_json(path: Path, value: Any) -> None:
    """Write JSON whole or not at all; NaN becomes null, since JSON has none."""
    write_text(path, json.dumps(finite(value), indent=1, ensure_ascii=False) + "\n")


def finite(value: Any) -> Any:
    """Plain values with null for what is no finite number: JSON has none."""
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    if isinstance(value, Mapping):
        return {k: finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(v) for v in value]
    return value


def sync_folder(folder: Path) -> None:
    """fsync every file in a folder, and the folder, so that a rename publishes finished bytes."""
    for path in [*(p for p in folder.rglob("*") if p.is_file()), folder]:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextlib.contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """A folder to fill that appears at `target` whole or not at all, replacing what was there."""
    partial = target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    yield partial
    sync_folder(partial)
    shutil.rmtree(target, ignore_errors=True)
    os.replace(partial, target)
    sync_folder_entry(target.parent)


def sync_folder_entry(folder: Path) -> None:
    """fsync a folder's own entries, so that a rename inside it survives a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def hash_path(path: Path) -> str:
    """SHA-256 over a file, or over a folder's files with their names."""
    digest = hashlib.sha256()
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    for file in files:
        digest.update(str(file.relative_to(path) if path.is_dir() else file.name).encode())
        with open(file, "rb") as data:
            digest.update(hashlib.file_digest(data, "sha256").digest())
    return digest.hexdigest()[:16]


def hash_json(value: Any) -> str:
    """A short hash of plain values."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:16]


def source_hash(module: Path) -> str:
    """Hash of a module's source and of every kilter module it imports, however deep: an edited loss is a new key."""
    seen: set[Path] = set()
    queue = [module]
    while queue:
        path = queue.pop()
        if path in seen:
            continue
        seen.add(path)
        queue.extend(_imports(path, path.stat().st_mtime_ns))
    texts = sorted((p.name, p.read_text(encoding="utf-8")) for p in seen)
    return hash_json(texts)


@functools.cache
def _imports(path: Path, _modified: int) -> list[Path]:
    """The kilter modules that a source file imports, anywhere in it; read again when it has been edited."""
    found: list[Path] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "kilter":
            for alias in node.names:  # a module of a package, or a name from the module itself
                found += _module(f"{node.module}.{alias.name}") or _module(node.module)
        elif isinstance(node, ast.Import):
            found += [p for a in node.names if a.name.split(".")[0] == "kilter" for p in _module(a.name)]
    return found


def _module(name: str) -> list[Path]:
    """The source file of a module, if there is one."""
    target = PACKAGE.parent.joinpath(*name.split("."))
    return [p for p in (target.with_suffix(".py"), target / "__init__.py") if p.is_file()]


def versions() -> dict[str, str]:
    """What the numbers depend on: bit-identity is promised only where these agree."""
    packages = ("kilter", "torch", "transformers", "tokenizers", "numpy")
    found = {}
    for package in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return {"python": platform.python_version(), **found, "machine": platform.machine(), "system": platform.system()}


class Lock:
    """One run at a time in one directory; the kernel lets go when the process dies, however it dies."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "LOCK"

    def __enter__(self) -> Lock:
        try:
            import fcntl
        except ImportError:  # Windows: msvcrt's byte lock has the same life span
            return self._enter_windows()
        self.file = open(self.path, "a+")
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise self._refused() from error
        self._sign()
        return self

    def _enter_windows(self) -> Lock:
        import msvcrt

        self.file = open(self.path, "a+")  # noqa: SIM115
        try:
            msvcrt.locking(self.file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        except OSError as error:
            raise self._refused() from error
        return self

    def _sign(self) -> None:
        self.file.seek(0)
        self.file.truncate()
        self.file.write(f"{os.getpid()}\n")
        self.file.flush()

    def _refused(self) -> RunError:
        self.file.seek(0)
        holder = self.file.read().strip() or "unknown"
        self.file.close()
        return RunError(
            f"{self.path.parent} is in use by another kilter run (process {holder}); wait for it, stop it, "
            "or give this one its own directory with --name"
        )

    def __exit__(self, *_: object) -> None:
        self.file.close()


def make_folder(folder: Path) -> Path:
    """Create a folder, or say plainly why it can't be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".probe"
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        raise UserError(
            f"can't write to {folder} ({error.strerror}); choose another place with --runs or free it"
        ) from error
    return folder


def require_space(folder: Path, needed: int, what: str) -> None:
    """Refuse to begin what the disk can't hold."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise RunError(
            f"{what} needs {needed / 1e6:.0f} MB on the disk of {folder}, but {free / 1e6:.0f} MB are free; "
            "free some space and run the same command again: it goes on from the last checkpoint"
        )


def disk_full(error: BaseException) -> bool:
    """Whether an error means that the disk, the quota or the allowed file size is exhausted.

    safetensors and tokenizers raise errors of their own kind, with the system's number in the text.
    """
    full = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return getattr(error, "errno", None) in full or any(f"os error {number})" in str(error) for number in full)


@dataclass
class Stage:
    """One stage at work: its folder, its configuration, where its inputs lie."""

    name: str
    folder: Path
    config: Any
    """The method's frozen `Config`, with references already replaced by paths."""
    seed: int
    label: str = ""
    """What stands before its progress bars, e.g. `[3/8] reward`."""
    record: dict[str, Any] = field(default_factory=dict)
    """What `stage.json` holds: method, resolved configuration, inputs, key."""
    extra: dict[str, Any] = field(default_factory=dict)
    """What the stage reports into DONE besides time and memory."""
    spent_before: float = 0.0
    """Seconds that earlier, cut-off attempts took."""
    began: float = field(default_factory=time.monotonic)

    def path(self, name: str) -> Path:
        return self.folder / name

    @property
    def seconds(self) -> float:
        """Seconds of work so far, those of cut-off attempts included."""
        return self.spent_before + time.monotonic() - self.began

    def note_time(self) -> None:
        """Keep the seconds so far, so that a kill does not lose them."""
        self.path(SPENT).write_text(f"{self.seconds:.3f}")

    def append(self, name: str, rows: list[dict[str, Any]]) -> None:
        """Add rows to `name`.jsonl; called when a checkpoint is due, so that no step waits for the disk."""
        if rows:
            with open(self.path(f"{name}.jsonl"), "a", encoding="utf-8") as out:
                out.writelines(json.dumps(finite(row), ensure_ascii=False) + "\n" for row in rows)

    def trim(self, name: str, step: int) -> None:
        """Forget rows from `step` on: the resumed run writes them again."""
        path = self.path(f"{name}.jsonl")
        if path.exists():
            rows = [line for line in _whole_lines(path) if json.loads(line)["step"] < step]
            write_text(path, "".join(line + "\n" for line in rows))

    def finish(self, peak_mb: float) -> None:
        """Write DONE: from here on the stage is skipped while its key holds."""
        outputs = {
            p.name: hash_path(p)
            for p in sorted(self.folder.iterdir())
            if p.name not in NOT_OUTPUT and not p.name.endswith(".partial")
        }
        done = {"key": self.record.get("key"), "outputs": outputs, "seconds": self.seconds, "peak_mb": peak_mb}
        write_json(self.path(DONE), {**done, **self.extra})
        shutil.rmtree(self.path("checkpoints"), ignore_errors=True)  # only now: a kill before DONE still resumes


def _whole_lines(path: Path) -> list[str]:
    """The finished lines of a JSONL file: a kill can leave a last line torn."""
    lines = []
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        with contextlib.suppress(json.JSONDecodeError):
            json.loads(line)
            lines.append(line)
    return lines


def read_done(folder: Path) -> dict[str, Any] | None:
    """The DONE record of a stage folder, or None."""
    try:
        done: dict[str, Any] = json.loads((folder / DONE).read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        return None
    return done


def output_hash(folder: Path, name: str, done: Mapping[str, Any]) -> str:
    """The hash of a finished stage's output: as recorded, or anew where somebody has edited it since."""
    path = folder / name
    if not path.exists():
        raise RunError(f"{path} is gone, but stage {folder.name!r} had made it; run again with --from {folder.name}")
    files = [p for p in path.rglob("*") if p.is_file()] if path.is_dir() else [path]
    edited = max(p.stat().st_mtime for p in files) > (folder / DONE).stat().st_mtime
    return hash_path(path) if edited else str(done["outputs"][name])


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """A stage's metric rows."""
    path = folder / "metrics.jsonl"
    return [json.loads(line) for line in _whole_lines(path)] if path.exists() else []


def set_aside(folder: Path) -> Path:
    """Move a superseded stage out of the way, keeping it; returns where it went."""
    shelf = folder.parent / ".superseded"
    shelf.mkdir(exist_ok=True)
    number = 1
    while (shelf / f"{folder.name}-{number}").exists():
        number += 1
    target = shelf / f"{folder.name}-{number}"
    os.replace(folder, target)
    return target
