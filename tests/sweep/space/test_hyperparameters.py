from __future__ import annotations

from typing import Any

import pytest

from sweep.space.domains import Choices, Domain, Range, TimesRank, parse_domain
from sweep.space.hyperparameters import HYPERPARAMETERS, shown


@pytest.mark.parametrize(
    ("name", "raw", "domain"),
    [
        ("rank", 8, Choices((8,))),
        ("rank", [16, 8], Choices((8, 16))),
        ("epochs", [0.5, 1], Choices((0.5, 1))),
        ("use_rslora", [True, False], Choices((True, False))),
        ("lr_scheduler", ["linear", "cosine"], Choices(("linear", "cosine"))),
        ("rank", {"min": 8, "max": 64}, Range(8, 64, False, None, True)),
        ("dropout", {"min": 0, "max": 0.1, "step": 0.05}, Range(0, 0.1, False, 0.05, False)),
        ("epochs", {"min": 0.5, "max": 3, "log": True}, Range(0.5, 3, True, None, False)),
        ("alpha", {"times_rank": 2}, TimesRank(Choices((2,)))),
        ("alpha", {"times_rank": [2, 1]}, TimesRank(Choices((1, 2)))),
        (
            "alpha",
            {"times_rank": {"min": 0.5, "max": 2}},
            TimesRank(Range(0.5, 2, False, None, False)),
        ),
        ("alpha", [8, 16], Choices((8, 16))),
    ],
)
def test_what_a_space_says_is_a_domain(name: str, raw: Any, domain: Domain) -> None:
    assert parse_domain(name, raw) == (domain, [])


@pytest.mark.parametrize(
    ("name", "raw", "words"),
    [
        ("rank", 0, "must be above 0, not 0."),
        ("rank", True, "must be a number, not true."),
        ("rank", "8", "must be a number, not '8'; remove the quotation marks."),
        ("rank", "eight", "must be a number, not 'eight'."),
        ("rank", None, "must be a number, not nothing."),
        ("rank", [[8]], "must be a number, not a list."),
        ("rank", 5000, "must be at most 4096, not 5000."),
        ("rank", {"min": 8, "max": 16, "step": 0.5}, "must be a whole number, not 0.5."),
        ("rank", {"min": 8, "max": 8}, "min (8) must be below max (8)."),
        ("rank", {"min": 8}, "a range needs max: write {min: …, max: …}."),
        ("rank", {}, "a range needs min and max: write {min: …, max: …}."),
        ("epochs", float("inf"), "must be finite, not inf."),
        ("epochs", {"min": 1, "max": 2, "step": 0}, "must be a number above 0, not 0."),
        ("epochs", {"min": 1, "max": 2, "log": 1}, "must be true or false, not 1."),
        ("dropout", 1.0, "must be below 1, not 1.0."),
        ("weight_decay", -0.1, "must be at least 0, not -0.1."),
        ("max_length", 1, "must be above 1, not 1."),
        ("use_rslora", "no", "must be true or false, not 'no'."),
        (
            "use_rslora",
            {"min": 0, "max": 1},
            "takes no range, since its values have no order: give a list.",
        ),
        (
            "target_modules",
            "all",
            "is no preset; did you mean all-linear? Names of modules are a list: [all].",
        ),
        (
            "target_modules",
            "re:(",
            "must be a regular expression behind re:, but missing ), "
            "unterminated subpattern at position 0.",
        ),
        (
            "target_modules",
            ["attention", "fc1", "fc2"],
            "mixes presets and names of modules: to search, write [attention, [fc1, fc2]]; to "
            "adapt the named modules alone, write [fc1, fc2].",
        ),
        ("target_modules", [["q_proj", "mlp"]], "must hold names of modules alone, not 'mlp'."),
        ("alpha", {"times_rank": []}, "must hold at least one value, not an empty list."),
        ("alpha", {"times_rank": -1}, "must be above 0, not -1."),
    ],
)
def test_what_cannot_be_is_said(name: str, raw: Any, words: str) -> None:
    domain, problems = parse_domain(name, raw)
    assert domain is None
    assert [problem.words for problem in problems] == [words]


def test_a_list_of_one_name_is_no_misspelt_preset() -> None:
    domain, problems = parse_domain("target_modules", ["Wqkv"])  # MPT's
    assert (domain, problems) == (Choices(("Wqkv",)), [])


@pytest.mark.parametrize(
    ("key", "meant"),
    [("low", "min"), ("upper", "max"), ("lgo", "log"), ("steps", "step"), ("min=8", "min")],
)
def test_a_mistyped_key_of_a_range_names_the_right_one(key: str, meant: str) -> None:
    _, [problem] = parse_domain("rank", {key: 8})
    assert problem.path == ("rank", key)
    assert problem.words == f"no such key of a range; did you mean `{meant}`?"


@pytest.mark.parametrize(
    ("name", "raw", "words"),
    [
        ("learning_rate", {"loguniform": [1e-4, 1e-3]}, "{min: 0.0001, max: 0.001, log: true}."),
        ("rank", {"tune.choice": [8, 16]}, "write the list, [8, 16]."),
        ("rank", {"randint": [8, 65]}, "{min: 8, max: 64}."),
        ("dropout", {"quniform": [0.0, 0.2, 0.1]}, "{min: 0.0, max: 0.2, step: 0.1}."),
        ("dropout", {"suggest_float": "…"}, "{min: …, max: …}."),
        ("target_modules", {"choice": ["qv", "mlp"]}, "write the list, [qv, mlp]."),
        ("learning_rate", {"randn": [0, 1]}, "give a value, a list or a range."),
    ],
)
def test_a_function_of_ray_or_optuna_is_led_to_ours(name: str, raw: Any, words: str) -> None:
    _, [problem] = parse_domain(name, raw)
    assert problem.words.endswith(words)


def test_a_key_like_no_other_names_them_all() -> None:
    _, [problem] = parse_domain("rank", {"values": [8, 16]})
    assert problem.words == (
        "no such key of a range; it has min, max, log and step. Write a list as [1, 2]."
    )


@pytest.mark.parametrize(
    ("low", "high", "step", "mend"),
    [(1, 4, 2, "write 3 or 5"), (0.1, 0.45, 0.1, "write 0.4 or 0.5"), (1, 2, 3, "write 4")],
)
def test_a_range_ends_on_a_step(low: float, high: float, step: float, mend: str) -> None:
    _, [problem] = parse_domain("epochs", {"min": low, "max": high, "step": step})
    assert problem.words == f"must be min plus a multiple of step, not {high}; {mend}."


@pytest.mark.parametrize("high", [0.3, 0.7, 0.9])
def test_decimal_steps_are_counted_as_they_are_written(high: float) -> None:
    _, problems = parse_domain("dropout", {"min": 0.1, "max": high, "step": 0.1})
    assert problems == []


def test_several_problems_of_one_domain_are_all_said() -> None:
    _, problems = parse_domain("learning_rate", {"min": 0, "max": 2, "log": "yes", "stp": 1})
    assert [problem.path[1] for problem in problems] == ["stp", "min", "max", "log"]


def test_every_default_is_a_value_that_may_be() -> None:
    defaults = [(h.default, h) for h in HYPERPARAMETERS.values() if h.default is not None]
    assert len(defaults) == len(HYPERPARAMETERS) - 1  # alpha follows the rank
    assert [h.meaning for default, h in defaults if h.problem(default)] == []


@pytest.mark.parametrize(
    ("domain", "words"),
    [
        (Choices((8, 16)), "8, 16"),
        (Choices((1e-4,)), "0.0001"),
        (Range(5e-5, 1e-3, True, None, False), "5e-05 … 0.001, log"),
        (Range(8, 64, False, 8, True), "8 … 64, step 8"),
        (TimesRank(Choices((1, 2))), "rank × (1, 2)"),
    ],
)
def test_a_domain_in_words(domain: Domain, words: str) -> None:
    assert str(domain) == words


@pytest.mark.parametrize(
    ("value", "words"),
    [(True, "true"), (None, "nothing"), ({}, "keys and values"), ("x" * 99, f"'{'x' * 59}…'")],
)
def test_a_value_in_words(value: object, words: str) -> None:
    assert shown(value) == words


@pytest.mark.parametrize(
    ("raw", "values"),
    [
        (["q_proj", "v_proj"], ("q_proj,v_proj",)),
        (["c_attn"], ("c_attn",)),
        ("fc1", ("fc1",)),
        (["attention", "all-linear"], ("attention", "all-linear")),
        ([["fc1", "fc2"], "qv", "re:.*w1"], ("fc1,fc2", "qv", "re:.*w1")),
        (["layers.0.mlp.fc1"], ("layers.0.mlp.fc1",)),
    ],
)
def test_a_flat_list_of_names_is_one_choice(raw: Any, values: tuple[str, ...]) -> None:
    assert parse_domain("target_modules", raw) == (Choices(values), [])
