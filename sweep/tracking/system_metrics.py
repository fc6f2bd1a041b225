"""MLflow's probes of this machine: its load, as system metrics of the sweep's run."""

from __future__ import annotations

from contextlib import suppress
from typing import Any


def system_monitors() -> list[Any]:
    """Return MLflow's probes of this machine.

    Not its SystemMetricsMonitor: that one writes from a second thread, gives up at the first
    error, and its end waits for the server.
    """
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
