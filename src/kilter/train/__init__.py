"""The room of the loop, its optimisers and its checkpoints; called as `kilter.train(...)`, it trains one stage.

A submodule takes its package's attribute of the same name as soon as it is imported, so the public function
`kilter.train` has to be this module: calling it is `kilter.pipeline.train_one`.
"""

from __future__ import annotations

import sys
import types
from typing import Any


class _Room(types.ModuleType):
    def __call__(self, method: str, **fields: Any) -> Any:
        """Train one stage on the user's own files; see `kilter.pipeline.train_one`."""
        from kilter.pipeline import train_one

        return train_one(method, **fields)


sys.modules[__name__].__class__ = _Room
