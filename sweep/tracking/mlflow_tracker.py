"""Tell MLflow of a sweep, through a journal: at once where it is there, later where it is not."""

import math
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from sweep.errors import TrackingError
from sweep.events import Place
from sweep.folder import layout
from sweep.storage.of_folder import study_name
from sweep.text.numbers import counted
from sweep.tracking import run_data
from sweep.tracking.client import answering_soon, is_refused, not_there
from sweep.tracking.description import NOTE, ending
from sweep.tracking.journal import Journal
from sweep.tracking.location import (
    artifacts_dir,
    checked,
    experiment_of,
    mend,
    sync_command,
    tracked_at,
)
from sweep.tracking.run_index import RunIndex
from sweep.tracking.runs import LAST, Runs
from sweep.tracking.writer import Writer
from trials.config import EvalPoint, TrialConfig, TrialResult
from trials.foreign_text import in_a_line, without_secrets

STOPPED_PATIENCE_SECONDS = 15.0


class MlflowTracker:
    """A `Tracker` that writes to MLflow in the background, through a journal in the sweep's folder.

    Nothing raises after `open_sweep`, and nothing but `close_sweep` waits for MLflow. While it is
    away the journal grows; what is in it when the sweep ends is sent by the next process of the
    sweep, or by `send_rest`.

    Args:
        uri: `sqlite:////absolute/path.db`, or a server's http(s) address.
        name: The experiment's.
        artifacts_dir: Where a new experiment keeps artifacts; None leaves it to the server.
        output_dir: The sweep's folder. A file in it, `mlflow_sweep_id.txt`, tells this sweep's
            parent run from one of the same name that somebody else has on the same server;
            another, `mlflow.json`, says where the sweep is tracked.
        run_name: Of the parent run; None: the experiment's name.

    Raises:
        TrackingError: `uri` cannot be used, or does not answer within 10 seconds, and the sweep is
            not tracked there yet; or a journal waits for another address.
    """

    def __init__(
        self,
        *,
        uri: str,
        name: str,
        artifacts_dir: Path | None,
        output_dir: Path,
        run_name: str | None = None,
    ) -> None:
        self._writer: Writer | None = None
        self._error: str | None = None
        self._configs: dict[int, TrialConfig] = {}
        self._best_scores: dict[int, float] = {}
        """Of each trial, where the objective is a metric."""
        self._output_dir = output_dir
        self._journal = Journal(output_dir / layout.JOURNAL)
        self._uri = uri = checked(uri)
        index = RunIndex(uri, name, output_dir, artifacts_dir, run_name)
        self._runs = Runs(index, tried=self._journal.sequence)
        known = tracked_at(output_dir)
        self._is_continued = known == without_secrets(uri)
        if known and not self._is_continued and len(self._journal):
            raise TrackingError(
                f"All writes must reach {known} before a sweep resumes elsewhere, but "
                f"{counted(len(self._journal), 'write')} of {output_dir.name} have not. Send them "
                f"first: {sync_command(output_dir)}"
            )
        self._reach(index.find_experiment)

    def open_sweep(
        self,
        params: Mapping[str, object],
        tags: Mapping[str, str],
        space_path: Path,
        datasets: Sequence[Mapping[str, str]] = (),
    ) -> None:
        """Continue this sweep's parent run, or create it. A parameter logged before stays as it is.

        Args:
            datasets: Its rows (`recorded.datasets`).

        Raises:
            TrackingError: As the constructor.
        """
        path = self._within(space_path)
        self._put("open", params=params, tags=tags, space_path=path, datasets=datasets)
        event = self._journal.first()
        if event and len(self._journal) == 1 and self._error is None:
            try:
                is_open = self._reach(lambda: self._runs.send(event))
            except TrackingError:
                self._journal.sent(event)  # there is no sweep
                raise
            if is_open:
                self._journal.sent(event)
        self._writer = Writer(
            self._journal,
            self._runs.send,
            is_final=is_refused,
            idle=lambda: self._runs.sample_system(self._journal.now()),
            error=self._error,
        )

    def trial_started(self, config: TrialConfig, place: Place) -> None:
        """Begin the child run of trial `config.number`, or go on in the one that it has."""
        self._configs[config.number] = config
        self._best_scores.pop(config.number, None)  # it reports again what it had reported
        self._put(
            "start",
            number=config.number,
            name=config.name,
            params=run_data.params(config),
            tags={"gpu": place.device, "node": place.node, run_data.EXACT: run_data.exact(config)},
        )

    def trial_reported(self, number: int, point: EvalPoint) -> None:
        """Log one evaluation; point 0 is also the sweep's `base_eval_loss`."""
        objective, best = self._configs[number].objective, self._best_scores.get(number)
        if point.index > 0 and point.score is not None and math.isfinite(point.score):
            scores = [point.score] if best is None else [point.score, best]
            best = self._best_scores[number] = min(scores, key=objective.key)
        self._put(
            "report",
            number=number,
            step=point.step,
            metrics=run_data.metrics(point, objective, best),
            train_losses=point.step_losses or (),
            tags=run_data.tags(point),
            is_base=point.index == 0,
        )

    def trial_ended(self, number: int, result: TrialResult) -> None:
        """Log how the trial ended, then its log, config.json and, if it is whole, its adapter."""
        self._put(
            "end",
            number=number,
            status=run_data.STATUS[result.outcome],
            params=run_data.params_found(self._configs[number], result),
            metrics=run_data.seconds(result),
            tags={
                "outcome": result.outcome,
                "outcome_reason": result.reason,
                NOTE: ending(result, self._configs[number].objective),
            },
            seconds=result.training_seconds + result.evaluation_seconds,
        )
        for name in run_data.files(result.outcome):
            self._put("upload", number=number, name=name)

    def drop_adapter(self, number: int, folder: Path) -> None:
        """Delete `folder`, the adapter of trial `number`, and what its run has of it.

        The folder goes at once, also while MLflow is away: an upload that finds none does nothing.
        """
        self._put("drop", number=number)
        shutil.rmtree(folder, ignore_errors=True)

    def describe(self, text: str) -> None:
        """Write the parent run's description while the sweep runs.

        Args:
            text: Markdown. A link to `#trial-17` leads to that trial's run, to `#trials` and
                `#curves` to the page of all, and a picture `plots/…` is the sweep's own.
        """
        self._put("note", text=text)

    def register(self, name: str, number: int, tags: Mapping[str, str], description: str) -> None:
        """Register the adapter of trial `number`; comes before `close_sweep`.

        Args:
            name: Of the registered model.
            tags: As `mlflow_champion.register`.
            description: As `describe`.
        """
        self._put("register", name=name, number=number, tags=tags, description=description)

    @property
    def registered(self) -> str | None:
        """What became of the winner in the registry of models, in words; None: nothing yet."""
        return self._runs.registered

    def close_sweep(
        self,
        status: Literal["FINISHED", "FAILED", "KILLED"],
        winner: Mapping[str, object] | None,
        summary: str,
        report: Path | None = None,
        plots: Sequence[Path] = (),
        shown: Sequence[float] | None = None,
        answers: Path | None = None,
    ) -> None:
        """Send what is left and end the parent run. Gives up 60 s after the last successful write,
        or 15 where somebody has stopped the sweep and waits for the prompt.

        Args:
            winner: `trial` (its number), `eval_loss`, and whatever else is worth a tag.
            summary: As `describe`.
            report: The sweep's report.html, which becomes an artifact of the parent run.
            plots: Pictures for the summary, which become such artifacts too.
            shown: The lowest and the highest objective that MLflow's chart should show.
            answers: A table for MLflow, in the JSON that its own `log_table` writes.
        """
        self._put(
            "close",
            status=status,
            winner=winner,
            summary=summary,
            report_path=None if report is None else self._within(report),
            plot_paths=[self._within(path) for path in plots],
            shown=shown,
            answers_path=None if answers is None else self._within(answers),
        )
        assert self._writer is not None, "open_sweep comes first"
        patience = STOPPED_PATIENCE_SECONDS if status == "KILLED" else None
        self._writer.close(patience_seconds=patience)

    @property
    def unsent(self) -> int:
        """Writes that have not reached MLflow and wait in the journal."""
        return len(self._journal)

    @property
    def is_away(self) -> bool:
        """Whether the latest attempt to reach MLflow has failed."""
        return (self._error if self._writer is None else self._writer.error) is not None

    @property
    def first_error(self) -> str | None:
        """Why MLflow cannot be reached now, else why it refused the first write that it refused."""
        writer = self._writer
        return self._error if writer is None else writer.error or writer.first_refusal

    @property
    def in_words(self) -> str | None:
        """What MLflow does not have, and the mend; None when it has everything."""
        if self._writer is None:
            return None
        return _in_words(self._journal, self._writer, self._output_dir)

    def _put(self, kind: str, **arguments: object) -> None:
        self._journal.append(kind, arguments)

    def _within(self, path: Path) -> str:
        """A path from the sweep's folder on, which may have been moved when the event is sent."""
        return os.path.relpath(path.resolve(), self._output_dir.resolve())

    def _reach(self, call: Callable[[], object]) -> bool:
        """Make a call at once. A sweep that MLflow knows already does without, any other not."""
        try:
            with answering_soon():
                call()
        except not_there() as error:
            uri, self._error = without_secrets(self._uri), in_a_line(error)
            if self._is_continued and not is_refused(error):
                return False
            raise TrackingError(
                f"MLflow must be reachable before a sweep begins, but {uri} cannot be used: "
                f"{self._error} {mend(uri, self._error)}"
            ) from None  # the cause's own traceback may hold credentials
        return True


def send_rest(output_dir: Path, uri: str | None, say: Callable[[str], None]) -> int:
    """Send what a sweep that does not run has left in its journal; return how many are left.

    The caller holds the sweep's lock. Runs that a killed process has left RUNNING are ended.

    Args:
        uri: The server's address, where the one that the sweep was tracked at needs a password or
            has changed; None for that one.
        say: Hears of the progress.

    Raises:
        TrackingError: The sweep has no journal, or it is not known where it is tracked.
    """
    path = output_dir / layout.JOURNAL
    if not path.exists() and tracked_at(output_dir) is None:
        raise TrackingError(
            f"Unsent writes lie in the sweep's folder, but {path} does not exist. Correct the "
            f"name, or --output."
        )
    address = uri or tracked_at(output_dir)
    if address is None:
        raise TrackingError(
            f"{output_dir.name} the address of its MLflow is unknown, as nothing has reached one "
            f"yet. Name it with --mlflow."
        )
    name = study_name(output_dir)
    experiment = experiment_of(output_dir) or name
    place = artifacts_dir(address, output_dir, experiment)
    runs = Runs(RunIndex(checked(address), experiment, output_dir, place, run_name=name))
    kept = Journal(path)
    if not len(kept) and kept.last_kind in LAST and not kept.n_unreadable:
        say(f"{output_dir.name}: {without_secrets(address)} already has everything.")
        return 0
    if kept.last_kind not in LAST:
        kept.append("stop", {})
    n_all, said = len(kept), time.monotonic()

    def on_progress() -> None:
        nonlocal said
        if time.monotonic() - said >= 2.0 or not len(kept):
            say(f"{n_all - len(kept)} of {n_all} sent")
            said = time.monotonic()

    say(f"{output_dir.name}: {counted(n_all, 'write')} to send to {without_secrets(address)} …")
    writer = Writer(kept, runs.send, is_final=is_refused, idle=lambda: None)
    writer.close(on_progress)
    if words := _in_words(kept, writer, output_dir):
        say(words)
    return len(kept)


def _in_words(kept: Journal, writer: Writer, output_dir: Path) -> str | None:
    words, path = [], output_dir / layout.JOURNAL
    if kept.n_unreadable:
        words.append(
            f"{path}: {counted(kept.n_unreadable, 'line')} cannot be read, so MLflow lacks what "
            f"they say. Restore the file and send it with {sync_command(output_dir)}, or delete it."
        )
    if len(kept):
        why = f": {writer.error}" if writer.error else "."
        words.append(
            f"{counted(len(kept), 'write')} did not reach MLflow{why} They are kept in "
            f"{path}; send them with {sync_command(output_dir)}"
        )
    if writer.n_refused:
        refused = counted(writer.n_refused, "write")
        words.append(f"MLflow rejected {refused}; the first: {writer.first_refusal}")
    return "\n".join(words) or None
