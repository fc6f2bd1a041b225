"""Runs whose configurations are known beforehand: none is asked of a sampler."""

from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from sweep.study.sweep import RUNS_AGAIN
from trials.config import TrialConfig, TrialResult
from trials.trial_folder import forget_result


class KnownRuns:
    """Those that wait and those that run.

    Args:
        configs: Of the runs to do, in their order; numbers differ.
    """

    def __init__(self, configs: Iterable[TrialConfig]) -> None:
        self.waiting = deque(configs)
        self.running: dict[int, TrialConfig] = {}
        self._n_lost = Counter[int]()

    def ask(self) -> TrialConfig:
        """Return the next; its folder is there, without an earlier result."""
        config = self.waiting.popleft()
        self.running[config.number] = config
        Path(config.output_dir).mkdir(parents=True, exist_ok=True)
        forget_result(Path(config.output_dir))
        return config

    def tell(self, number: int, result: TrialResult) -> tuple[TrialConfig, TrialResult]:
        """Take the end of a run; one that was lost is `interrupted`, and waits again.

        A lost machine may be the run's own doing after all, so that has an end.
        """
        config = self.running.pop(number)
        if result.fault is not None:
            self._n_lost[number] += 1
            if result.fault != "machine_lost" or self._n_lost[number] <= RUNS_AGAIN:
                result = replace(result, outcome="interrupted")
        if result.outcome == "interrupted":
            self.waiting.append(config)
        return config, result
