"""What a user sees while a sweep runs."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console, ConsoleDimensions

from sweep.events import Place
from sweep.screen.choice import make_screen
from sweep.screen.json_events import Events, EventScreen
from sweep.screen.live import LiveScreen
from sweep.screen.notebook import NotebookScreen
from sweep.screen.pace import Expected, Rungs
from sweep.screen.plain import PlainScreen, ended_in_a_line
from sweep.screen.progress import Progress
from sweep.study.budget import Budget
from sweep.study.ended import StoredTrial
from sweep.text.numbers import duration
from trials.config import EvalPoint, Outcome, TrialConfig, TrialResult

MakeConfig = Callable[..., TrialConfig]
PLACE = Place("box", "GPU 0")


class Clock:
    """Seconds that a test moves on."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def progress(clock: Clock) -> Progress:
    return Progress(Budget(4, None, clock=clock), clock=clock)


def point(index: int, eval_loss: float = 1.5, seconds: float = 10.0) -> EvalPoint:
    return EvalPoint(
        index=index,
        step=index * 5,
        epoch=index / 4,
        eval_loss=eval_loss,
        train_loss=None if index == 0 else 1.25,
        learning_rate=1e-4,
        grad_norm=1.0,
        tokens_per_second=1.0,
        gpu_memory_gib=None,
        seconds=seconds,
    )


def ended(eval_loss: float, outcome: Outcome = "completed") -> TrialResult:
    return TrialResult(outcome=outcome, reason="Ran to its end.", best=point(2, eval_loss))


def expected_left(progress: Progress) -> float | None:
    """Seconds until all trials of the budget have ended; None: nothing has shown what one takes."""
    left = progress.trials_left()
    return None if left is None else left.expected


def console(
    *, terminal: bool, width: int = 140, height: int | None = None
) -> tuple[Console, io.StringIO]:
    out = io.StringIO()
    shown = Console(
        file=out, force_terminal=terminal, width=width, height=height, color_system=None
    )
    return shown, out


@pytest.mark.parametrize(
    ("seconds", "words"), [(7.2, "7 s"), (185, "3:05"), (7620, "2 h 07 min"), (59.6, "1:00")]
)
def test_durations_are_short_words(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_the_rest_is_unknown_before_a_trial_has_ended(
    progress: Progress, config: MakeConfig
) -> None:
    progress.started(config(0), PLACE)
    assert expected_left(progress) is None
    assert progress.time_left() == ""


def test_hours_alone_are_a_limit_and_no_estimate(clock: Clock) -> None:
    assert (
        Progress(Budget(4, 2.0, clock=clock), clock=clock).time_left() == "at most 2 h 00 min left"
    )


def test_gpu_hours_are_a_limit_at_the_pace_of_what_runs(clock: Clock, config: MakeConfig) -> None:
    budget = Budget(None, None, gpu_hours=2.0, clock=clock)
    progress = Progress(budget, clock=clock, gpu_seconds=lambda: 1800.0, gpus_per_trial=2)
    progress.started(config(0), PLACE)
    assert progress.time_left() == "at most 45:00 left"


def test_the_rest_is_dealt_out_to_the_slots(
    progress: Progress, clock: Clock, config: MakeConfig
) -> None:
    progress.started(config(0), PLACE)
    clock.now = 100.0
    progress.finished(0, ended(1.0))
    progress.started(config(1), PLACE)
    progress.started(config(2), PLACE)
    # Two run for 100 s each; the third comes after one of them.
    assert expected_left(progress) == 200.0
    assert progress.time_left() == "about 3:20 left"


def test_while_trials_may_wait_or_go_on_the_rest_is_a_range(
    clock: Clock, config: MakeConfig
) -> None:
    progress = Progress(
        Budget(3, None, clock=clock), clock=clock, expected=Expected(Rungs([1]), [2.0])
    )
    progress.started(config(0), PLACE)
    progress.reported(0, point(1, seconds=20.0))
    # 60 s of this one; 20 s of each other to where it is compared, 80 s or more if it goes on.
    left = progress.trials_left()
    assert left is not None
    assert 90.0 < left.low < 120.0 < left.high < 320.0
    assert progress.time_left() == f"{duration(left.low)} to {duration(left.high)} left"
    progress.budget = Budget(3, 60 / 3600, clock=clock)  # less than either end
    assert progress.time_left() == "about 1:00 left"


def test_a_longer_trial_takes_longer(progress: Progress, clock: Clock, config: MakeConfig) -> None:
    progress.started(config(0, epochs=1.0), PLACE)
    clock.now = 100.0
    progress.finished(0, ended(1.0))
    progress.budget.trials = 2
    progress.started(config(1, epochs=3.0), PLACE)
    assert expected_left(progress) == 300.0


def test_a_trial_in_the_queue_is_known_by_its_epochs(clock: Clock, config: MakeConfig) -> None:
    progress = Progress(Budget(2, None, clock=clock), clock=clock, queued={1: 5.0})
    progress.started(config(0, epochs=1.0), PLACE)
    clock.now = 100.0
    progress.finished(0, ended(1.0))
    assert expected_left(progress) == 500.0


def test_trials_of_earlier_runs_show_the_pace(clock: Clock, config: MakeConfig) -> None:
    values = {"rank": 8, "alpha": 8.0, "learning_rate": 1e-3, "epochs": 2.0}
    values["effective_batch_size"] = 8
    curve = dict.fromkeys(range(1, 5), 1.25)
    earlier = StoredTrial(3, values, "completed", value=1.25, seconds=80.0, values=curve)
    progress = Progress(Budget(2, None, clock=clock), [earlier], clock=clock)
    progress.started(config(4, epochs=1.0), PLACE)
    assert expected_left(progress) == 40.0


def test_a_trial_that_goes_on_is_timed_from_its_checkpoint_on(
    progress: Progress, clock: Clock, config: MakeConfig
) -> None:
    progress.budget.trials = 1
    clock.now = 1000.0
    progress.started(config(0), PLACE)
    clock.now = 1005.0
    progress.reported(0, point(2, seconds=60.0))  # half, of which 55 s in an earlier run
    assert progress.running[0].seconds_left(clock.now) == 60.0
    assert expected_left(progress) == 60.0


def test_no_number_of_the_rest_once_the_sweep_is_stopping(
    progress: Progress, clock: Clock, config: MakeConfig
) -> None:
    progress.started(config(0), PLACE)
    clock.now = 100.0
    progress.finished(0, ended(1.0))
    progress.is_stopping = lambda: True
    assert progress.time_left() == "stopping"


def test_a_trial_that_has_evaluated_is_timed_by_its_own_share(
    progress: Progress, clock: Clock, config: MakeConfig
) -> None:
    progress.started(config(0), PLACE)
    clock.now = 10.0
    progress.reported(0, point(1, seconds=10.0))  # a quarter in 10 s
    clock.now = 12.0
    assert progress.running[0].seconds_left(clock.now) == 28.0


def test_the_best_trials_leave_out_what_was_pruned(progress: Progress, config: MakeConfig) -> None:
    for number, result in enumerate([ended(1.5), ended(0.5, "diverged"), ended(1.25, "overfit")]):
        progress.started(config(number), PLACE)
        assert result.best is not None
        progress.reported(number, result.best)
        progress.finished(number, result)
    assert [trial.number for trial in progress.leaders.best(5)] == [2, 0]


def test_plain_lines_say_start_base_loss_quarters_and_end(
    progress: Progress, config: MakeConfig
) -> None:
    screen_console, out = console(terminal=False)
    screen = PlainScreen(screen_console, progress)
    screen.trial_started(config(0), PLACE)
    screen.trial_reported(0, point(0, 2.5))
    screen.trial_reported(0, point(1))
    screen.trial_ended(0, ended(1.25))
    lines = out.getvalue().splitlines()
    assert lines[0].endswith("trial 000 r8 α16 lr1e-3 e2 b8  starts on GPU 0 of box")
    assert lines[1].endswith("base model's eval loss: 2.5000")
    assert lines[2].endswith("trial 000   25%  step 5  train 1.2500  eval 1.5000")
    assert "completed: Ran to its end.  [1/4 trials, about" in lines[3]


def test_a_paused_trial_goes_on_and_does_not_start_again(
    progress: Progress, config: MakeConfig
) -> None:
    screen_console, out = console(terminal=False)
    screen = PlainScreen(screen_console, progress)
    screen.trial_started(config(0), PLACE)
    screen.trial_reported(0, point(1))
    screen.trial_ended(0, replace(ended(1.5), outcome="paused"))
    screen.trial_started(config(0), PLACE)
    assert out.getvalue().splitlines()[-1].endswith("goes on, on GPU 0 of box")


def test_the_live_table_shows_running_and_best_trials(
    progress: Progress, clock: Clock, config: MakeConfig
) -> None:
    screen_console, out = console(terminal=True)
    screen = LiveScreen(screen_console, progress, "my-sweep")
    screen.trial_started(config(0), PLACE)
    screen.trial_reported(0, point(2, 1.25))
    screen.trial_ended(0, ended(1.25, "overfit"))
    screen.trial_started(config(1), PLACE)
    screen.trial_reported(1, point(0, 2.5))
    screen.trial_reported(1, point(2))
    clock.now = 65.0
    screen_console.print(screen._draw())
    shown = out.getvalue()
    assert "my-sweep  1 of 4 trials ended  elapsed 1:05" in shown
    assert "base model 2.5000" in shown
    assert "001 r8 α16 lr1e-3 e2 b8" in shown and "50%" in shown
    assert "000 r8 α16 lr1e-3 e2 b8  1.2500     overfit" in shown
    assert "001 r8 α16 lr1e-3 e2 b8  1.5000     running at 50%" in shown


def test_the_leaders_are_known_from_the_first_evaluation_on(
    progress: Progress, config: MakeConfig
) -> None:
    progress.started(config(0), PLACE)
    assert progress.leaders.best(5) == []
    for index, loss in enumerate((1.5, 1.25, math.nan, 1.75), start=1):
        progress.reported(0, point(index, loss))
    [first] = progress.leaders.best(5)
    assert (first.value, first.index, first.state) == (1.25, 4, "running")


def test_a_paused_trial_is_a_leader_until_it_is_outclassed(
    progress: Progress, config: MakeConfig
) -> None:
    progress.started(config(0), PLACE)
    progress.reported(0, point(1))
    progress.finished(0, ended(1.5, "paused"))
    assert [each.state for each in progress.leaders.best(5)] == ["paused"]
    progress.started(config(0), PLACE)
    assert [each.state for each in progress.leaders.best(5)] == ["running"]
    progress.finished(0, ended(1.5, "paused"))
    progress.finished(0, ended(1.5, "outclassed"))
    assert progress.leaders.best(5) == []


def test_paused_trials_of_an_earlier_command_are_leaders(clock: Clock, config: MakeConfig) -> None:
    values = {"rank": 8, "alpha": 8.0, "learning_rate": 1e-3, "epochs": 2}
    known = {**values, "effective_batch_size": 4}
    waiting = StoredTrial(3, known, "paused", value=1.25, values={1: 1.25})
    progress = Progress(Budget(4, None, clock=clock), clock=clock, paused=[waiting])
    progress.started(config(4), PLACE)
    shown, out = console(terminal=True, width=80)
    shown.print(LiveScreen(shown, progress, "my-sweep")._draw())
    assert "003 r8 α8 lr1e-3 e2 b4  1.2500     paused at 25%" in out.getvalue()


def test_the_bar_moves_with_the_steps(progress: Progress, config: MakeConfig) -> None:
    shown, out = console(terminal=True)
    screen = LiveScreen(shown, progress, "my-sweep")
    screen.trial_started(config(0), PLACE)
    progress.usage.steps[0] = (12, 120)
    shown.print(screen._draw())
    assert "  10%  " in out.getvalue() and "  12    " in out.getvalue()
    screen.trial_reported(0, point(2))  # half
    assert progress.share_done(progress.running[0]) == 0.5


@pytest.mark.parametrize("width", [80, 120, 200])
def test_the_table_fits_into_a_terminal_of_24_lines(
    progress: Progress, config: MakeConfig, width: int
) -> None:
    low, out = console(terminal=True, width=width, height=24)
    screen = LiveScreen(low, progress, "a-sweep-with-a-name-of-its-own")
    progress.base_eval_loss = 2.5
    progress.usage.count(40, 40)
    for number in range(40):
        screen.trial_started(config(number, rank=128, learning_rate=1.25e-4), PLACE)
        screen.trial_reported(number, point(1))
    low.print(screen._draw())
    lines = out.getvalue().splitlines()
    assert len(lines) <= 22  # one is for what was said last, one for keys
    assert max(map(len, lines)) <= width
    assert sum("running at 25%" in line for line in lines) == 5


def test_a_terminal_that_became_narrower_keeps_no_folded_lines(
    progress: Progress, config: MakeConfig
) -> None:
    narrowed, out = console(terminal=True, width=80, height=24)
    screen = LiveScreen(narrowed, progress, "my-sweep")
    screen.trial_started(config(0), PLACE)
    screen.trial_reported(0, point(1))
    narrowed.print(screen._draw())
    n_folded = sum((max(len(line), 1) - 1) // 40 for line in out.getvalue().splitlines())
    narrowed.size = ConsoleDimensions(40, 24)
    before = len(out.getvalue())
    screen._take_off_folded()
    screen._take_off_folded()  # they are gone
    assert out.getvalue()[before:].count("\x1b[1A") == n_folded > 0


def test_an_outcome_is_not_said_twice(progress: Progress, config: MakeConfig) -> None:
    reason = "Paused at 15%, step 3 (eval loss 2.6000), until 2 more trials get there."
    line = ended_in_a_line(0, config(0), TrialResult(outcome="paused", reason=reason))
    assert line.plain == f"000 r8 α16 lr1e-3 e2 b8  p{reason[1:]}"
    failed = TrialResult(outcome="failed", reason="KeyError: 'rank'\nThe end of its log:\n…")
    assert ended_in_a_line(0, None, failed).plain == "000  failed: KeyError: 'rank'"
    waits = TrialResult(outcome="paused", reason="Eval loss 1.5000 at 15%: 3rd of 6; the top 2 …")
    assert ended_in_a_line(0, None, waits).plain == "000  paused: Eval loss 1.5000 at 15%: 3rd of 6"


def test_in_a_narrow_terminal_names_are_cut_and_numbers_are_not(
    progress: Progress, config: MakeConfig
) -> None:
    narrow, out = console(terminal=True, width=70)
    screen = LiveScreen(narrow, progress, "my-sweep")
    screen.trial_started(config(0, rank=128, alpha=256.0, learning_rate=1.25e-4), PLACE)
    screen.trial_reported(0, point(1))
    narrow.print(screen._draw())
    (row,) = (line for line in out.getvalue().splitlines() if "━" in line)
    assert row.startswith("000 r128 α256") and "…  ━━━━  25%  1.2500  1.5000  ▁" in row


def test_of_a_thousand_trials_those_are_shown_that_fit(
    progress: Progress, config: MakeConfig
) -> None:
    low, out = console(terminal=True, height=20)
    screen = LiveScreen(low, progress, "my-sweep")
    for number in range(1000):
        screen.trial_started(config(number), PLACE)
    screen.trial_reported(700, point(3))
    low.print(screen._draw())
    lines = out.getvalue().splitlines()
    assert len(lines) <= 20
    assert "700 r8" in lines[3] and "▁" in lines[3] and "994 more running" in lines[9]


def test_a_narrow_terminal_still_shows_names_shares_and_losses(
    progress: Progress, config: MakeConfig
) -> None:
    narrow, out = console(terminal=True, width=80)
    screen = LiveScreen(narrow, progress, "my-sweep")
    screen.trial_started(config(1), PLACE)
    screen.trial_reported(1, point(2))
    narrow.print(screen._draw())
    assert "001 r8 α16 lr1e-3 e2 b8  ━━━━  50%  1.2500  1.5000  ▁" in out.getvalue()


def test_where_a_trial_runs_gives_way_before_what_it_does(
    progress: Progress, config: MakeConfig
) -> None:
    usual, out = console(terminal=True, width=120)
    screen = LiveScreen(usual, progress, "my-sweep")
    place = replace(PLACE, device="CPU worker 0 of a machine with a long name")
    screen.trial_started(config(1, effective_batch_size=128, learning_rate=1.25e-4), place)
    for index in range(5):
        screen.trial_reported(1, replace(point(index), step=12345))
    usual.print(screen._draw())
    lines = out.getvalue().splitlines()
    (heading,) = (line for line in lines if line.startswith("running"))
    assert "best    step   elapsed  on" in heading
    row, _ = (line for line in lines if line.startswith("001"))
    assert "  12345  " in row and row.rstrip().endswith("…")


def test_a_continued_sweep_shows_what_it_has(clock: Clock) -> None:
    values = {"rank": 8, "alpha": 8.0, "learning_rate": 1e-3, "epochs": 1}
    earlier = StoredTrial(3, {**values, "effective_batch_size": 4}, "completed", value=1.25)
    progress = Progress(Budget(4, None), [earlier], 2.5, clock)
    assert (progress.n_ended, progress.base_eval_loss) == (1, 2.5)
    assert progress.leaders.best(5)[0].name == "003 r8 α8 lr1e-3 e1 b4"


def test_a_terminal_gets_the_table_and_a_pipe_gets_lines(progress: Progress) -> None:
    assert isinstance(make_screen(console(terminal=True)[0], progress, Path("my")), LiveScreen)
    assert isinstance(make_screen(console(terminal=False)[0], progress, Path("my")), PlainScreen)


def test_a_notebook_gets_the_table_and_a_program_gets_events(progress: Progress) -> None:
    notebook = Console(force_jupyter=True)
    assert isinstance(make_screen(notebook, progress, Path("my")), NotebookScreen)
    events = Events(io.StringIO())
    for_programs = make_screen(console(terminal=True)[0], progress, Path("my"), events)
    assert isinstance(for_programs, EventScreen)


def test_brackets_in_a_reason_are_not_taken_for_colours(
    progress: Progress, config: MakeConfig
) -> None:
    screen_console, out = console(terminal=True)
    screen = LiveScreen(screen_console, progress, "")
    with screen:
        screen.trial_started(config(0), PLACE)
        screen.trial_ended(0, TrialResult(outcome="failed", reason="KeyError: '[/red]' [bold]"))
    assert "KeyError: '[/red]' [bold]" in out.getvalue()
