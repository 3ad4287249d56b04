"""Which scope a path needs: by its first two segments. What no rule names, only `admin` may see."""

from __future__ import annotations

from collections.abc import Mapping

from server.identity import Scope

OPEN = frozenset({"/healthz", "/readyz"})
"""What everybody may ask, with no key at all: balancers do."""

RULES: Mapping[str, Scope] = {
    "/metrics": "metrics",
    "/v1/files": "batch",
    "/v1/batches": "batch",
    "/v1": "inference",
    "/v2": "inference",
    "/rerank": "inference",
    "/score": "inference",
    "/openapi.json": "inference",
    "/docs": "inference",
    "/redoc": "inference",
}


def rule(path: str) -> Scope | None:
    """Return the scope that a rule gives this path; None where there is no rule."""
    segments = path.split("/", 3)[1:3]
    return RULES.get("/" + "/".join(segments)) or RULES.get("/" + "/".join(segments[:1]))


def needed(path: str) -> Scope:
    """Return the scope that a request to this path needs; `OPEN` ones need none."""
    return rule(path) or "admin"
