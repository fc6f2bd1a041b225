"""A job's output as it comes, whatever happens to the connection."""

import asyncio
import time
from collections.abc import Callable

from sweep.cluster.jobs import Cluster, Job
from sweep.errors import ClusterError

LONGEST_WAIT_SECONDS = 15.0
"""Between two attempts to reach a dashboard that is away; the first waits are 1, 2, 4, … s."""


class Follower:
    """Shows a job's output once, from its beginning, over any number of connections.

    Args:
        write: Takes text of the job as it is.
        say: Takes lines of ours.
    """

    def __init__(
        self, cluster: Cluster, write: Callable[[str], object], say: Callable[[str], object]
    ) -> None:
        self._cluster = cluster
        self._write = write
        self._say = say
        self._n_shown = 0
        self._is_away = False

    def follow(self, job: Job) -> Job:
        """Show the output until the job is over; returns how it ended.

        Raises:
            ClusterError: The cluster does not know the job any more.
        """
        wait = 1.0
        while True:
            try:
                asyncio.run(self._tail(job.id))
                job = self._cluster.look(job)
                if job.is_over:
                    asyncio.run(self._tail(job.id))  # what came since
                    return job
                wait = 1.0
            # Exception: aiohttp's, Ray's and the system's own; each means that it is away.
            except Exception as error:
                if "does not exist" in str(error):
                    raise ClusterError(
                        f"{job.id}: the cluster no longer knows this job, as it was restarted. "
                        f"Submit the sweep again to resume it."
                    ) from None
                if not self._is_away:
                    self._say(
                        f"{self._cluster.address} is unreachable; the job runs without it. "
                        f"Waiting …"
                    )
                self._is_away = True
            time.sleep(wait)
            wait = min(2 * wait, LONGEST_WAIT_SECONDS)

    async def _tail(self, job_id: str) -> None:
        """Show what has not been shown: each connection gives the output from its beginning."""
        n_heard = 0
        async for text in self._cluster.client.tail_job_logs(job_id):
            if self._is_away:
                self._say(f"{self._cluster.address} is back.")
                self._is_away = False
            new = text[max(0, self._n_shown - n_heard) :]
            n_heard += len(text)
            if new:
                self._write(new)
                self._n_shown = n_heard
