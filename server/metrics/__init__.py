"""What Prometheus scrapes: a registry per server, labels with bounded values only."""

from server.metrics.metrics import CONTENT_TYPE, OTHER, UNMATCHED, Metrics
from server.metrics.observed import ObservedStore
from server.metrics.store import StoreMetrics

__all__ = ["CONTENT_TYPE", "OTHER", "UNMATCHED", "Metrics", "ObservedStore", "StoreMetrics"]
