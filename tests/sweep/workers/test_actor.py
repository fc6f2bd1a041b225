"""What a worker of a sweep may have, and say."""

import pytest

from sweep.workers.actor import Share


@pytest.mark.parametrize(("n_workers", "seconds"), [(1, 1.0), (50, 1.0), (1000, 20.0)])
def test_many_workers_say_no_more_together_than_few(n_workers: int, seconds: float) -> None:
    share = Share(n_workers=n_workers, on_gpus=True, gpus_per_trial=1, is_joined=False)
    assert share.step_seconds == seconds
