"""`run` and `confirm` whole, but for Ray: their trials are made up, in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from sweep.events import RunnerEvent
from sweep.workers.slots import Timings
from sweep.workers.usage import Usage
from tests.inline_runner import InlineRunner
from tests.sweep.reviewed import point, result
from trials.config import Report, TrialConfig, TrialResult
from trials.trial_folder import write_result


class NoRay(InlineRunner):
    """In the place of Ray's workers."""

    last: NoRay
    during: Callable[[], object] = staticmethod(lambda: None)
    """What happens while a run runs."""

    def __init__(self, model: object, *, n_slots: Callable[[], int], **settings: object) -> None:
        super().__init__(self._run)
        self.n_slots, self.usage, self.timings = n_slots, Usage(), Timings()
        type(self).last = self

    def _run(self, config: TrialConfig, report: Report) -> TrialResult:
        self.during()
        curve = [point(4, 1.0)]
        report(curve[0])
        ended = result("completed", curve)
        write_result(config, ended, curve)
        return ended

    def set_aside(self, until: Callable[[], bool]) -> Iterator[RunnerEvent]:
        return iter(())

    def shutdown(self) -> None: ...
