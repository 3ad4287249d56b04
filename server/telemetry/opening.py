"""Tracing as the settings, or OpenTelemetry's own variables, ask for it."""

from __future__ import annotations

import os

from server.configuration import ConfigurationError
from server.settings import TelemetrySettings
from server.telemetry.base import Tracing, Untraced

_VARIABLES = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


def open_tracing(settings: TelemetrySettings) -> Tracing:
    """Start to send spans where a collector is named, else make none.

    Raises:
        ConfigurationError: OpenTelemetry is not installed.
    """
    if settings.otlp_endpoint is None and not any(map(os.environ.get, _VARIABLES)):
        return Untraced()
    try:
        from server.telemetry.otlp import Telemetry
    except ImportError as error:
        reason = f"telemetry.otlp_endpoint: {error}; install forethought[telemetry]"
        raise ConfigurationError([reason]) from error
    return Telemetry(settings.otlp_endpoint, settings.flush_s)
