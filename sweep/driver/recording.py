"""What the driver writes to MLflow, to best/ and to the report."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from sweep.driver.adapters import Adapters
from sweep.driver.job import STATES, Ending, Job, Status
from sweep.errors import StudyAway
from sweep.events import Tracker
from sweep.folder import layout
from sweep.report.charts import curve_values, value_range
from sweep.report.page import write_report
from sweep.report.plots import write_plots
from sweep.results.answers import write_table
from sweep.results.conclusion import Conclusion, conclude
from sweep.results.reading import StoredSweep, read_sweep
from sweep.screen.summary import summary_text
from sweep.space.space import SPLITS
from sweep.study.ended import StoredTrial
from sweep.study.summary import SAMPLE, Summary
from sweep.study.sweep import Sweep
from sweep.study.trial_config import model_config
from sweep.text.trials import SHOWN
from sweep.tracking import run_data
from sweep.tracking.description import Describer, as_markdown
from sweep.tracking.destination import Destination
from sweep.tracking.location import artifacts_dir, command, page_of, where
from sweep.tracking.registry import TASK
from sweep.workers.paces import PaceNotes, kind_of
from trials.config import UserError
from trials.trial_folder import ADAPTER

if TYPE_CHECKING:
    from sweep.tracking.mlflow_tracker import MlflowTracker


RECORDED_VERSIONS = ("sweep", "torch", "transformers", "peft", "bitsandbytes", "optuna", "ray")


def new_tracker(name: str, at: Destination, output_dir: Path) -> MlflowTracker:
    """Connect with the server, or open the database, that has the runs of a sweep."""
    from sweep.tracking.mlflow_tracker import MlflowTracker

    return MlflowTracker(
        uri=at.uri,
        name=at.experiment,
        artifacts_dir=artifacts_dir(at.uri, output_dir, at.experiment),
        output_dir=output_dir,
        run_name=name,
    )


class SweepRecording:
    """MLflow, best/ and the report of a sweep.

    Args:
        say: For words amid the trials; `console` has the last ones.
    """

    def __init__(
        self, job: Job, sweep: Sweep, console: Console, say: Callable[[str], None]
    ) -> None:
        self._job, self._sweep, self._console, self._say = job, sweep, console, say

    def open(self) -> Sequence[Tracker]:
        """Open MLflow and the adapters; they hear of what a killed process did not tell."""
        job, sweep = self._job, self._sweep
        self._tracker = tracker = new_tracker(job.space.name, job.tracked, job.output_dir)
        datasets = run_data.datasets({s: job.space.source(s) for s in SPLITS}, job.found.report)
        space_path = job.output_dir / layout.SPACE
        tracker.open_sweep(_parent_params(job), _parent_tags(), space_path, datasets)
        self._adapters = Adapters(
            sweep,
            job.output_dir,
            keep=job.space.settings.keep_adapters,
            drop=tracker.drop_adapter,
            arguments=job.space.settings.data.template_arguments,
        )
        sweep.trackers = [tracker, self._adapters]
        sweep.catch_up()
        self._adapters.put_right()
        if tracker.is_away:
            self._say(f"MLflow is away; its writes are kept for later: {tracker.first_error}")
        sweep.note("running", "")
        describe = Describer(lambda: tracker.describe(as_markdown(self._summary(), lives=True)))
        return [tracker, self._adapters, describe, *self._pace_notes()]

    def _pace_notes(self) -> list[Tracker]:
        """Who notes what a token took, for `sweep check`; nobody where that is of no use."""
        job = self._job
        model = model_config(job.space, job.backend)
        kind = kind_of(job.space, model, on_gpus=job.on_gpus, workers=job.options.workers)
        cost = job.found.report.get("evaluation_tokens")  # earlier versions did not count them
        return [] if kind is None or cost is None else [PaceNotes(kind, cost)]

    def _summary(self) -> Summary:
        return summary_of(self._job, self._sweep)

    def close(self, ending: Ending) -> Ending:
        status, failure = ending
        try:
            self._adapters.put_right()
            with suppress(StudyAway):
                self._sweep.note(STATES[status], failure or "")
            stored, found = self._read_again()
            summary = concluded(self._job, self._summary(), stored, found)
            self._close_tracker(status, summary, stored, found)
            self._console.print(summary_text(summary))
        except StudyAway as error:  # best/ and the summary are the next run's
            failure = failure or str(error)
            status = "FAILED" if status == "FINISHED" else status
            self._tracker.close_sweep("KILLED", None, failure)
        if words := self._tracker.in_words:
            self._console.print(words, style="red", markup=False)
        if failure:
            self._console.print(failure, style="bold red", markup=False)
        return status, failure

    def _read_again(self) -> tuple[StoredSweep | None, Conclusion | None]:
        """Read what the sweep has come to; a sweep must end in order whatever becomes of that."""
        try:
            # This process holds the folder yet, but the sweep has ended, and the report says how.
            stored = replace(read_sweep(self._job.output_dir, self._job.storage), held_by=None)
            return stored, conclude(stored)
        except Exception as error:
            self._no_report(error)
            return None, None

    def _no_report(self, error: Exception) -> None:
        again = command("report", self._job.output_dir)
        self._say(f"{layout.REPORT} was not written: {error}. Try again: {again}")

    def _close_tracker(
        self,
        status: Status,
        summary: Summary,
        stored: StoredSweep | None,
        conclusion: Conclusion | None,
    ) -> None:
        """Send MLflow the end of the sweep, with its report and the winner."""
        job, tracker = self._job, self._tracker
        page, plots, shown, answers = None, [], None, None
        if stored is not None:
            try:
                if found := curve_values(stored.trials):
                    shown = value_range(found, stored.objective)
                plots = write_plots(stored)
                answers = write_table(stored)
                page = write_report(stored)
            except Exception as error:
                self._no_report(error)
        text = as_markdown(summary, plots=plots)
        winner, name = summary.winner, job.space.settings.register_as
        if winner is not None and name is not None:
            objective = job.space.objective
            tags = {
                "objective": objective.name,
                "direction": objective.direction,
                "value": f"{winner.value:.6f}",
                "eval_loss": f"{winner.eval_loss:.6f}",
                TASK: run_data.comparable(self._sweep.task),
                "sweep": job.space.name,
                "base_model": job.space.settings.base_model,
            }
            if (final := summary.judged).where:  # `value` stays what champions compare by
                tags |= {"final_value": f"{final.value:.6f}", "final_rows": final.where}
            if conclusion is not None:
                tags["certainty"] = conclusion.certainty
            tracker.register(name, winner.number, tags, as_markdown(summary))
        about = None if winner is None else _about(winner, summary)
        tracker.close_sweep(status, about, text, page, plots, shown, answers)
        if tracker.registered is not None:
            self._say(f"Registered the winner as {tracker.registered}")

    def break_off(self) -> None:
        self._tracker.close_sweep(
            "KILLED", None, ("The sweep was aborted; the same command resumes it.")
        )


def _parent_params(job: Job) -> dict[str, object]:
    space, settings, found = job.space, job.space.settings, job.found
    arguments = settings.data.template_arguments
    params: dict[str, object] = {
        f"search.{name}": str(domain) for name, domain in space.domains.items()
    }
    params |= {
        "base_model": settings.base_model,
        "backend": job.backend,
        "quantization": space.quantization,
        "compute_dtype": settings.compute_dtype,
        "sampler": settings.sampler,
        "seed": settings.seed,
        "start_from": ", ".join(settings.earlier) or None,
        "objective": space.objective.python or space.objective.name,
        "objective.direction": space.objective.direction,
        "evaluate.times": settings.evaluate.times,
        "evaluate.sample_rows": found.report["sample_rows"],
        "data.train": run_data.in_words(settings.data.train),
        "data.eval": run_data.in_words(settings.data.eval),
        "data.test": settings.data.test and run_data.in_words(settings.data.test),
        "data.chat_template": settings.data.chat_template,
        "data.template_arguments": json.dumps(arguments) if arguments else None,
        "data.train_fingerprint": found.report["train_fingerprint"],
        "data.eval_fingerprint": found.report["eval_fingerprint"],
        "data.test_fingerprint": found.report.get("test_fingerprint"),
    }
    return params


def _parent_tags() -> dict[str, str]:
    versions = {f"version.{name}": version(name) for name in RECORDED_VERSIONS}
    return versions | {"version.python": platform.python_version()}


def _about(winner: StoredTrial, summary: Summary) -> dict[str, object]:
    objective, judged = summary.objective, summary.judged
    return {
        "trial": winner.number,
        "eval_loss": judged.eval_loss,
        "base_eval_loss": judged.base_eval_loss,
        "measured": judged.where or SAMPLE,
        **({} if objective.is_eval_loss else {"objective": objective.name, "value": judged.value}),
        **{name: winner.hyperparameters[name] for name in SHOWN},
    }


def summary_of(job: Job, sweep: Sweep) -> Summary:
    best_dir = job.output_dir / layout.BEST
    return Summary(
        name=job.space.name,
        ended=sweep.ended(),
        ranked=sweep.ranked(),
        base_eval_loss=sweep.base.eval_loss,
        best_dir=best_dir if best_dir.exists() else None,
        see_it_all=_see_it_all(job.output_dir),
        wall_seconds=sweep.wall_seconds(),
        gpu_hours=sweep.gpu_seconds() / 3600,
        price_per_gpu_hour=job.space.settings.budget.price_per_gpu_hour,
        n_waiting=sweep.n_waiting(),
        n_paused=sweep.n_paused(),
        report=job.output_dir / layout.REPORT,
        objective=job.space.objective,
        base_value=sweep.base.value,
    )


def concluded(
    job: Job, summary: Summary, stored: StoredSweep | None, found: Conclusion | None
) -> Summary:
    """The same with the winner that the conclusion names, and its words."""
    if found is None or stored is None:
        return summary
    folder = layout.trial_dir(job.output_dir, found.winner.number)
    chosen = found.winner if (folder / ADAPTER).is_dir() else None
    final = None if chosen is None else stored.judged(chosen)
    return replace(
        summary,
        ranked=stored.decided,
        final_columns=stored.columns,
        chosen=chosen,
        final=final,
        conclusion=found.words,
        next_step=found.next_step,
    )


def summary_at_end(job: Job, sweep: Sweep) -> Summary:
    """The summary with what the sweep has come to; without, where the study is away."""
    summary = summary_of(job, sweep)
    with suppress(UserError, StudyAway, OSError):
        stored = read_sweep(job.output_dir, job.storage)
        return concluded(job, summary, stored, conclude(stored))
    return summary


def _see_it_all(output_dir: Path) -> str:
    """Where the sweep is in MLflow: a server's page, or the command that shows its database."""
    found = where(output_dir)
    if found is not None and found["uri"].startswith("http"):
        return page_of(found["uri"], found["experiment_id"], output_dir)
    return command("ui", output_dir)
