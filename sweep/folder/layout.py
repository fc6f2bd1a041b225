"""What lies where in a sweep's folder. `trials.trial_folder` names what lies in a trial's."""

from pathlib import Path

SWEEP = "sweep.json"  # who wrote the folder, where, and which study it has
SPACE = "space.yaml"
STUDY = "study.db"
DATA = "data"  # the prepared rows
TRIALS = "trials"
BEST = "best"  # the winner's adapter, and how to load it
REPORT = "report.html"
PLOTS = "plots"
ANSWERS_TABLE = "answers.json"  # as MLflow has them
TIMINGS = "timings.json"

MLFLOW = "mlflow.json"  # where the sweep is tracked
MLFLOW_DATABASE = "mlflow.db"
ARTIFACTS = "mlartifacts"
MLFLOW_SWEEP_ID = "mlflow_sweep_id.txt"
JOURNAL = "mlflow_journal.jsonl"

LOCK = "lock"
STOP = "stop"  # asks the running sweep to end
SEEN = "seen"  # tells a process whether it sees this folder

# Folders with data of their own:
CONFIRM = "confirm"  # and trials, and other things of a sweep's
PLAN = "plan.json"  # in it: which run is which trial with which seed
FINAL = "final"  # and its plan: which measurement is which trial's
ANSWERS = "answers"  # to held-out prompts: of base/, and of trials by number
ALONE = "alone"  # of `sweep trial`
TUNE = "tune"  # of trials under Ray Tune


def trial_dir(folder: Path, number: int) -> Path:
    """Return the folder of a trial."""
    return folder / TRIALS / f"{number:03d}"


def has_results(folder: Path) -> bool:
    """Whether trials have run there."""
    return (folder / BEST).exists() or any((folder / TRIALS).glob("*"))


def prune_request(folder: Path, number: int) -> Path:
    """Return the file that asks for a trial's end."""
    return folder / f"prune-{number:03d}"


def prune_requests(folder: Path) -> list[str]:
    """Return the names of all such files."""
    return sorted(path.name for path in folder.glob("prune-*"))


def sweep_folders(output: Path, with_file: str = SWEEP) -> list[Path]:
    """Return the folders of all sweeps that have got as far as writing a certain file."""
    return sorted(path.parent for path in output.glob(f"*/{with_file}"))
