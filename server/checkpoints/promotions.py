"""Which versions of a checkpoint were promoted, and which one is now: `promoted.json`."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from server.checkpoints.durable import write_file


class HistoryError(ValueError):
    """A file is no history of promotions."""


class Promotion(BaseModel):
    """A version that was promoted, and perhaps taken back later."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: str = Field(pattern="^[0-9a-f]{12}$")
    at: AwareDatetime
    forced: bool = False
    """Whether the gate's word was overruled."""
    reason: str | None = None
    """What the gate had to say, where it was overruled."""
    rolled_back_at: AwareDatetime | None = None


class History(BaseModel):
    """All promotions of one name, the oldest first: a stack whose taken-back parts are kept."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    promotions: tuple[Promotion, ...] = ()

    @property
    def current(self) -> str | None:
        """The version that is promoted now; None: none is."""
        standing = self._standing()
        return self.promotions[standing[-1]].version if standing else None

    @property
    def previous(self) -> str | None:
        """The version that a rollback leads to; None: there is none."""
        standing = self._standing()
        return self.promotions[standing[-2]].version if len(standing) > 1 else None

    def promoted(self, version: str, *, reason: str | None = None) -> History:
        """Add a promotion of now; `reason` is what the gate said where it was overruled."""
        promotion = Promotion(
            version=version, at=datetime.now(UTC), forced=reason is not None, reason=reason
        )
        return History(promotions=(*self.promotions, promotion))

    def rolled_back(self) -> History:
        """Take the current one back."""
        changed, place = list(self.promotions), self._standing()[-1]
        changed[place] = changed[place].model_copy(update={"rolled_back_at": datetime.now(UTC)})
        return History(promotions=tuple(changed))

    def _standing(self) -> list[int]:
        return [at for at, each in enumerate(self.promotions) if each.rolled_back_at is None]


def read_history(path: Path) -> History:
    """Read a history; an empty one where there is no file.

    Raises:
        HistoryError: the file is none.
    """
    try:
        return History.model_validate_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return History()
    except OSError as error:
        raise HistoryError(f"{path}: {error.strerror}") from error
    except ValidationError as error:
        raise HistoryError(f"{path}: {error.errors()[0]['msg']}") from error


def write_history(path: Path, history: History) -> None:
    """Replace the history in one step."""
    write_file(path, history.model_dump_json(indent=1) + "\n")
