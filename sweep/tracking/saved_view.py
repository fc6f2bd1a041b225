"""How MLflow's page of runs shows a sweep: a saved view, with columns, an order and charts.

Without one its table has no column of a hyperparameter, its charts are one bar for the sweep, and
the trials are folded away. MLflow keeps views as tags of the experiment; what stands in one is
what its page stores when somebody presses "Save view" (MLflow 3.17, `ExperimentPageUIState`). A
page that does not know a key passes over it, and one without saved views shows its own columns.
"""

import json
from collections.abc import Sequence
from typing import Any

from trials.config import Objective

TAG = "mlflow.sharedViewState."
"""What the names of the experiment's tags begin with; the view's own id stands behind it."""

MENU = "workflowType=machine_learning"
"""Of an address: without it MLflow's menu is that of traces and prompts."""

HYPERPARAMETERS = ("rank", "alpha", "learning_rate", "epochs", "effective_batch_size")
_CURVES, _MODEL, _SYSTEM = "sweep-curves", "sweep-model-metrics", "sweep-system-metrics"


def address(experiment_id: str, view_id: str, *, charts: bool = False) -> str:
    """Return where the view is on a server, from `#/` on."""
    mode = "&compareRunsMode=CHART" if charts else ""
    return f"#/experiments/{experiment_id}/runs?viewStateShareKey={view_id}{mode}&{MENU}"


def saved_view(
    name: str, parent_run_id: str, time: int, objective: Objective, shown: Sequence[float] | None
) -> str:
    """Return the tag's value.

    Args:
        name: As MLflow's menu of views shows it.
        parent_run_id: Of the sweep's run; its trials stand open below it.
        time: Milliseconds of the epoch.
        objective: What trials are judged by.
        shown: The lowest and the highest that its chart should show; None: all.
    """
    state = json.dumps(_state(parent_run_id, objective, shown))
    return json.dumps({"name": name, "createdAt": time, "updatedAt": time, "state": state})


def _state(
    parent_run_id: str, objective: Objective, shown: Sequence[float] | None
) -> dict[str, Any]:
    best = f"{objective.name}_best"
    losses = ["train_loss", "eval_loss"]
    columns = [f"metrics.`{metric}`" for metric in dict.fromkeys([best, "eval_loss_best"])]
    columns += [f"params.`{name}`" for name in HYPERPARAMETERS]
    return {
        "orderByKey": f"metrics.`{best}`",
        "orderByAsc": objective.direction == "minimize",
        "searchFilter": "",
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "modelVersionFilter": "All Runs",
        "datasetsFilter": [],
        "selectedColumns": ["tags.`outcome`", *columns, "attributes.`Duration`"],
        "columnWidths": {"attributes.`Run Name`": 280, f"metrics.`{best}`": 130},
        "runsExpanded": {parent_run_id: True},
        "runsHiddenMode": "SHOW_ALL",
        "compareRunCharts": [
            _line([objective.name], shown),
            _line(losses, _with_train(shown) if objective.is_eval_loss else None),
            _line(["generalisation_gap"]),
            _chart(
                "PARALLEL",
                "hyperparameters",
                selectedParams=list(HYPERPARAMETERS),
                selectedMetrics=[best],
            ),
            *(_scatter(name, best) for name in HYPERPARAMETERS),
        ],
        # Charts of other metrics are added by the page, to the sections of these names.
        "compareRunSections": [
            _section(_CURVES, "All trials", is_shown=True),
            _section(_MODEL, "Model metrics", is_shown=False),
            _section(_SYSTEM, "System metrics", is_shown=False),
        ],
    }


def _section(section_id: str, name: str, *, is_shown: bool) -> dict[str, Any]:
    return {
        "uuid": section_id,
        "name": name,
        "display": is_shown,
        "isReordered": True,
        "deleted": False,
        "isGenerated": False,
    }


def _chart(kind: str, chart_id: str, **settings: Any) -> dict[str, Any]:
    return {
        "type": kind,
        "uuid": f"sweep-{chart_id}",
        "metricSectionId": _CURVES,
        "deleted": False,
        "isGenerated": False,
        **settings,
    }


def _with_train(shown: Sequence[float] | None) -> Sequence[float] | None:
    """Room for train losses, which fall further, and for eval losses that rise where one overfits.

    MLflow takes both ends of a range or none.
    """
    if shown is None:
        return None
    low, high = shown
    return max(0.0, low - 3 * (high - low)), high + (high - low)


def _line(metrics: Sequence[str], shown: Sequence[float] | None = None) -> dict[str, Any]:
    return _chart(
        "LINE",
        "-and-".join(metrics),
        metricKey=metrics[0],
        selectedMetricKeys=list(metrics),
        scaleType="linear",
        xAxisKey="step",
        selectedXAxisMetricKey="",
        xAxisScaleType="linear",
        yAxisKey="metric",
        lineSmoothness=0,
        useGlobalLineSmoothing=True,
        useGlobalXaxisKey=True,
        # One diverged trial would press all others into one line.
        range={"yMin": shown[0], "yMax": shown[1]} if shown else {},
    )


def _scatter(hyperparameter: str, metric: str) -> dict[str, Any]:
    return _chart(
        "SCATTER",
        hyperparameter,
        xaxis={"key": hyperparameter, "type": "PARAM"},
        yaxis={"key": metric, "type": "METRIC"},
    )
