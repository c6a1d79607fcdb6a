"""How much may be asked of the server at once."""

from __future__ import annotations

from dataclasses import dataclass, fields

from retromae.core.config import setting
from retromae.core.errors import UserError

_LEAST = {"max_wait_ms": 0, "max_body_mb": 0.001, "timeout_seconds": 0.001}  # 1 for the others


@dataclass(frozen=True)
class Limits:
    """Limits of a server. What goes beyond them is refused with one sentence."""

    max_batch: int = setting(32, "texts of one pass of the model")
    max_wait_ms: float = setting(4.0, "how long a request may wait for others to share a pass with")
    max_queue: int = setting(4096, "texts that wait; more are refused with 503")
    max_texts: int = setting(1024, "texts of one request")
    max_characters: int = setting(50_000, "of one text")
    max_k: int = setting(1000, "results of one query")
    max_results: int = setting(20_000, "results of one request, over all its queries")
    max_body_mb: float = setting(16.0, "size of a request")
    timeout_seconds: float = setting(60.0, "time for one request; later it ends with 504")

    def __post_init__(self) -> None:
        for field in fields(self):
            value, least = getattr(self, field.name), _LEAST.get(field.name, 1)
            if not least <= value < float("inf"):
                raise UserError(f"{field.name} must be at least {least}, not {value}.")
        if self.max_queue < self.max_texts:
            raise UserError(
                f"max_queue ({self.max_queue}) must hold one request of max_texts ({self.max_texts}); change one."
            )
