"""Lines of the log, on stderr: as text for people, or one JSON object each for machines.

Neither prompts, nor outputs, nor keys are in them: what is logged of a request is in `Access`.
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from server.keys.mask import KeylessHandler
from server.settings import LogFormat, LogLevel
from server.telemetry.context import current


@dataclass(frozen=True, slots=True)
class Access:
    """What is logged of an HTTP request when its answer has ended."""

    method: str
    path: str
    route: str
    """The template of the path that matched."""
    status: int
    seconds: float
    strategy: str
    prompt_tokens: int
    completion_tokens: int
    owner: str
    """The public id of the client's key."""

    def __str__(self) -> str:
        request = f"{current().request_id} {self.method} {self.path!r:.100}"
        return f"{request} {self.status} {self.seconds:.3f} s"


class JSONFormatter(logging.Formatter):
    """Writes a record as a line of JSON, with the ids of the request that it belongs to."""

    def format(self, record: logging.LogRecord) -> str:
        """Write a record; of an `Access`, every field but the path, which clients choose."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
        }
        if request_id := current().request_id:
            line["request_id"] = request_id
        if trace_id := current().trace_id:
            line["trace_id"] = trace_id
        if isinstance(record.msg, Access):
            line |= {"message": "request", **asdict(record.msg)}
            del line["path"]
        else:
            line["message"] = record.getMessage()
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


def configure_logging(level: LogLevel, log_format: LogFormat) -> None:
    """Write everything that is logged to stderr in one format, Python's warnings too."""
    handler = KeylessHandler()
    text = logging.Formatter("%(levelname)s: %(message)s")
    handler.setFormatter(JSONFormatter() if log_format == "json" else text)
    logging.basicConfig(level=level.upper(), handlers=[handler])
    logging.captureWarnings(True)
    logging.getLogger("httpx").setLevel(logging.WARNING)
