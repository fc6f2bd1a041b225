"""How a trial on a cluster has ended: in the words of its worker, its log, or Ray."""

from dataclasses import replace
from pathlib import Path

from ray.exceptions import ActorUnavailableError, RayError

from sweep.folder import layout
from sweep.workers.actor import Home
from trials.config import TrialConfig, TrialResult
from trials.faults import has_stalled
from trials.trial_folder import log_tail
from trials.worker import failed

LOST = "its node has died"
"""Ray's words."""


def of_elsewhere(
    result: TrialResult, config: TrialConfig, home: Home, *, is_here: bool
) -> TrialResult:
    """The result of a trial on a machine that does not see the sweep's folder."""
    if not is_here and result.outcome in ("completed", "overfit"):
        cause = f"The machine {home.node} was lost before the trial's adapter was copied."
        return failed(cause, config, "machine_lost")
    there = str(layout.trial_dir(home.scratch, config.number))
    result = replace(result, reason=result.reason.replace(there, config.output_dir))
    if result.fault == "disk_full":  # of that machine, not of the one where the sweep lies
        reason = f"The disk of {home.node} is full. {result.reason}"
        return replace(result, fault="machine_lost", reason=reason)
    return result


def stall(config: TrialConfig) -> str | None:
    """Say that a trial's process was ended because it took no step, or None."""
    if not has_stalled(log_tail(Path(config.output_dir), n_lines=400)):
        return None
    return (
        f"Trial {config.number} took no step for {config.stall_minutes:g} minutes "
        f"(stall_minutes), so its process was killed; its log shows where it hung."
    )


def is_machine_lost(error: RayError) -> bool:
    """Whether a worker is gone with its machine, or cannot be reached there."""
    return isinstance(error, ActorUnavailableError) or LOST in str(error)


def death(error: RayError, home: Home | None) -> str:
    """Why a worker is gone: Ray's reason, without its advice.

    Args:
        home: Where the worker was, as far as that is known.
    """
    machine = "its machine" if home is None else f"the machine {home.node}"
    if isinstance(error, ActorUnavailableError):
        return f"The connection to {machine} was lost."
    if LOST in str(error):
        return f"The worker process died: {machine} was lost."
    lines = str(error).splitlines()
    reasons = [line.strip() for line in lines if "cause" in line.lower() or "exit" in line.lower()]
    return f"The worker process died: {[*reasons, lines[0]][0]}"
