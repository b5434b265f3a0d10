"""The virtual environments of both sides, made once: `python venvs.py` makes all three.

torch comes first and pinned in each, so that resolving the rest never replaces it by another build.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent
WORK = HERE / ".work"
CONSTRAINTS = ROOT / "constraints.txt"
NEEDS = {
    "kilter": ["-e", str(ROOT)],
    "trl116": ["trl==1.16.0", "transformers", "peft", "accelerate", "datasets"],
    "trl112": ["trl==1.12.0", "transformers", "peft", "accelerate", "datasets"],
}
NOTED = ("torch", "transformers", "trl", "accelerate", "numpy")


def main() -> None:
    for name in NEEDS:
        print(f"{name}: {python_of(name)}")


def python_of(name: str) -> Path:
    """The interpreter of an environment, which is made (or made anew, when its packages changed) where needed."""
    folder = WORK / f"venv-{name}"
    wanted = hashlib.sha256(json.dumps([NEEDS[name], CONSTRAINTS.read_text(encoding="utf-8")]).encode()).hexdigest()
    stamp, python = folder / "READY", folder / "bin" / "python"
    if not stamp.is_file() or stamp.read_text(encoding="utf-8") != wanted:
        print(f"making {folder} (once, some minutes)", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        install = [
            str(python),
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "-c",
            str(CONSTRAINTS),
        ]
        subprocess.run([*install, "torch"], check=True)
        subprocess.run([*install, *NEEDS[name]], check=True)
        stamp.write_text(wanted, encoding="utf-8")
    return python


def versions_of(name: str) -> dict[str, str]:
    """The versions that matter, read from the folder's metadata without starting its Python."""
    found = {}
    for info in sorted((WORK / f"venv-{name}").glob("lib/python*/site-packages/*.dist-info")):
        match = re.fullmatch(r"(.+)-([^-]+)\.dist-info", info.name)
        if match and match.group(1) in NOTED:
            found[match.group(1)] = match.group(2)
    return found


if __name__ == "__main__":
    main()
