"""MLflow's probes of this machine: its load, as system metrics of the sweep's run."""

from __future__ import annotations

from contextlib import suppress
from functools import cache
from typing import Any


def system_load() -> dict[str, float]:
    """Measure this machine, by the names that MLflow's page has for its load.

    Not with its SystemMetricsMonitor: that one writes from a second thread, gives up at the first
    error, and its end waits for the server.
    """
    load: dict[str, float] = {}
    for monitor in _monitors():
        monitor.collect_metrics()
        load |= {f"system/{key}": value for key, value in monitor.aggregate_metrics().items()}
        monitor.clear_metrics()
    return load


@cache
def _monitors() -> list[Any]:
    with suppress(ImportError):  # psutil is optional in MLflow
        from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
        from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
        from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
        from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

        found = [CPUMonitor(), DiskMonitor(), NetworkMonitor()]
        with suppress(ImportError, RuntimeError):  # no pynvml; no GPU
            found.append(GPUMonitor())
        return found
    return []
