"""The checks behind the exercises: each passes the page's solution, fails its stub, and names mistakes."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from exercise_pages import CHAPTERS, checked, exercises
from wrong_answers import all_answers

from microlab.book.exercises import (
    MISTAKE,
    NOT_YET,
    RIGHT,
    Feedback,
    Mistake,
    NotYet,
    check,
    check_for,
    labels,
)
from microlab.book.exercises.comparison import compare, number, run

ANSWERS = all_answers()
WRONG = [
    pytest.param(label, answer, hint, id=f"{label}-{k}")
    for label, answers in ANSWERS.items()
    for k, (answer, hint) in enumerate(answers.wrong)
]


def handed_in(answer: object) -> tuple:
    return answer if isinstance(answer, tuple) else (answer,)


# ---- every check ----


def test_every_check_belongs_to_an_exercise_and_has_its_wrong_answers():
    assert sorted(labels()) == sorted(checked()) == sorted(ANSWERS)


@pytest.mark.parametrize("label", ANSWERS)
def test_solution_of_the_page_is_right(label):
    answers = ANSWERS[label]
    solution = answers.solution() if answers.solution else checked()[label].answer(solved=True)
    feedback = check(label, *solution, **answers.context())
    assert feedback.right, feedback


@pytest.mark.parametrize("label", ANSWERS)
def test_stub_of_the_page_is_not_right_and_raises_nothing(label):
    answers = ANSWERS[label]
    stub = answers.stub() if answers.stub else checked()[label].answer(solved=False)
    feedback = check(label, *stub, **answers.context())
    assert not feedback.right
    assert feedback.text


@pytest.mark.parametrize(("label", "answer", "hint"), WRONG)
def test_hint_names_the_mistake(label, answer, hint):
    feedback = check(label, *handed_in(answer), **ANSWERS[label].context())
    assert not feedback.right
    assert re.search(hint, feedback.text), feedback


@pytest.mark.parametrize("label", ANSWERS)
def test_at_least_two_mistakes_have_hints_of_their_own(label):
    answers = ANSWERS[label]
    told = [check(label, *handed_in(answer), **answers.context()) for answer, _ in answers.wrong]
    assert len({feedback.text for feedback in told if feedback.status == MISTAKE}) >= 2


@pytest.mark.parametrize("label", ANSWERS)
def test_same_answer_gets_the_same_feedback(label):
    answer, _ = ANSWERS[label].wrong[0]
    first, second = (check(label, *handed_in(answer), **ANSWERS[label].context()) for _ in range(2))
    assert first == second


# ---- the exercises of the chapters ----

TIMES = {
    "Five minutes": 5,
    "Ten minutes": 10,
    "A quarter of an hour": 15,
    "Twenty minutes": 20,
    "Half an hour": 30,
    "An hour": 60,
    "A project": 1000,
}


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)
def test_exercises_are_graded_from_easy_to_a_project(chapter):
    grades = [TIMES[re.match(r"[\w ]+", one.text)[0]] for one in exercises(chapter).values()]
    assert len(grades) >= 4
    assert grades == sorted(grades)
    assert grades[-1] == TIMES["A project"]


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)
def test_every_function_to_write_has_a_check_and_every_solution_passes_it(chapter):
    for exercise in exercises(chapter).values():
        calls = exercise.calls(exercise.code)
        assert len(calls) == bool(calls)  # at most one
        assert calls or not exercise.empty_functions(), (
            f"{exercise.label}: nothing checks {exercise.empty_functions()}"
        )
        asserted = rf"assert exercises\.check\(\s*\"{exercise.label}\""
        shown_check = rf"verdict = exercises\.check\(\s*\"{exercise.label}\".*?assert verdict\.right"
        solution = "\n".join(exercise.solution)
        assert not calls or re.search(f"{asserted}|{shown_check}", solution, re.S), exercise.label


# ---- faults that any function may have ----


def grade(function, like=1.0):
    """The feedback of `run` on a function."""
    try:
        run(function, np.array([1.0, 2.0]), like=like)
    except (Mistake, NotYet) as fault:
        return Feedback(fault.status, str(fault))
    return Feedback(RIGHT, "")


def empty(values): ...


def unwritten(values):
    raise NotImplementedError


def changes(values):
    values[0] = 7
    return 1.0


def divides(values):
    return 1 / (len(values) - 2)


@pytest.mark.parametrize(
    ("function", "status", "words"),
    [
        (empty, NOT_YET, "gives nothing.*return"),
        (None, NOT_YET, "no function yet"),
        (unwritten, NOT_YET, "empty"),
        (3.5, MISTAKE, "without brackets"),
        (lambda: 1.0, MISTAKE, "1 arguments"),
        (divides, MISTAKE, r"ZeroDivisionError, in line \d+: `return 1 / \(len\(values\) - 2\)`"),
        (changes, MISTAKE, "changes its argument number 1"),
        (lambda values: np.nan, MISTAKE, "NaN"),
        (lambda values: np.inf, MISTAKE, "infinity"),
        (lambda values: values, MISTAKE, r"shape \(2,\), and a single number"),
        (lambda values: 1j, MISTAKE, "complex"),
        (lambda values: "1.0", MISTAKE, "numbers are wanted"),
        (lambda values: [values, [1.0]], MISTAKE, "no array|numbers are wanted"),
    ],
)
def test_fault_is_named(function, status, words):
    feedback = grade(function)
    assert feedback.status == status
    assert re.search(words, feedback.text), feedback


def test_wrong_kind_of_value_is_named():
    assert "bool" in grade(lambda v: v * 1.0, like=np.array([True, False])).text
    assert "2 values" in grade(lambda v: 1.0, like=(1.0, 2.0)).text
    assert grade(lambda v: (1.0, None), like=(1.0, 2.0)).status == NOT_YET
    assert grade(lambda v: torch.tensor(1.0), like=1.0).right
    assert grade(lambda v: [1, 2], like=(1.0, 2.0)).right


def test_interruption_is_not_taken_for_a_mistake():
    def interrupted(values):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        grade(interrupted)


def test_a_common_cause_of_wrong_answers_is_named():
    def told(function, right, cases):
        with pytest.raises(Mistake) as fault:
            compare(function, right, cases)
        return str(fault.value)

    numbers = [(1.0,), (4.0,), (6.0,)]
    assert "2 times" in told(lambda x: 2 * x, lambda x: x, numbers)
    assert "sign" in told(lambda x: -x, lambda x: x, numbers)
    grid = [(np.arange(6.0).reshape(2, 3),)]
    with pytest.raises(Mistake, match="shape"):
        compare(lambda a: a.T, lambda a: a, grid)
    assert "exchanged" in told(lambda a: a.T, lambda a: a, [(np.arange(9.0).reshape(3, 3),)])


def test_an_unrecognised_wrong_answer_is_shown_a_case():
    with pytest.raises(NotYet, match="`<lambda>\\(3\\)` gives 10, and 9 is right"):
        compare(lambda x: x**2 + (x > 2), lambda x: x**2, [(1,), (3,)])


def test_number_is_compared_within_its_tolerance():
    number(9.95, 10, rtol=0.01)
    number(np.float32(10.0), 10)
    for answer, words in ((9.0, "too small"), (12, "too large"), (None, "still empty"), ("ten", "a number")):
        with pytest.raises((NotYet, Mistake), match=words):
            number(answer, 10, {"half": 5})
    with pytest.raises(Mistake, match="half"):
        number(5.01, 10, {"half": 5})


# ---- the register ----


def test_an_unknown_label_is_an_error_that_lists_the_known_ones():
    with pytest.raises(ValueError, match="voronoi-ex-needle"):
        check("voronoi-ex-nadel", None)


def test_a_second_check_of_one_exercise_is_an_error():
    labels()
    with pytest.raises(ValueError, match="second check"):
        check_for("voronoi-ex-needle")(lambda answer: None)


def test_feedback_shows_its_text_safely_and_in_words():
    feedback = Feedback(MISTAKE, "`a < b` is <i>wrong</i>")
    assert "<code>a &lt; b</code> is &lt;i&gt;wrong" in feedback._repr_html_()
    assert "Mistake" in feedback._repr_html_()
    assert repr(feedback) == "mistake: `a < b` is <i>wrong</i>"
    assert not feedback.right
    assert Feedback(RIGHT, "").right
