"""Assignments: what a student gets, and the scores of four kinds of submission and of attacks on the grader.

The submissions are made from the sources: the right answers, half of them, none, and a cheat that replays the
outputs expected by the visible tests. Their scores come from nbgrader's own SQLite gradebook.
"""

from __future__ import annotations

import ast
import copy
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import make_assignments
import nbformat
import numpy as np
import pytest

from microlab.book import course as hidden
from microlab.book.grading import autograde, isolation
from microlab.data.errors import InputError

ROOT = Path(__file__).resolve().parents[2]

NAMES = [source.stem for source in make_assignments.assignments()]
HIDDEN = re.compile(r"### BEGIN HIDDEN TESTS\n.*?### END HIDDEN TESTS", re.S)
each = pytest.mark.parametrize("name", NAMES)
COURSE_SEED = "a seed of this test"

pytestmark = pytest.mark.slow


def source(name: str) -> nbformat.NotebookNode:
    return make_assignments.build(make_assignments.SOURCES / name / f"{name}.md")


def role(cell: nbformat.NotebookNode, solution: bool, graded: bool) -> bool:
    notes = cell.metadata.get("nbgrader", {})
    return bool(notes) and notes["solution"] == solution and notes["grade"] == graded


def answers(notebook: nbformat.NotebookNode) -> dict[str, str]:
    return {
        cell.id: re.sub(r" *### (BEGIN|END) SOLUTION\n?", "", cell.source)
        for cell in notebook.cells
        if role(cell, solution=True, graded=False)
    }


def points_by_test(notebook: nbformat.NotebookNode) -> dict[str, float]:
    return {cell.id: cell.metadata.nbgrader.points for cell in notebook.cells if role(cell, False, True)}


def failing_cells(notebook: nbformat.NotebookNode, filled: dict[str, str], visible_only: bool) -> set[str]:
    """Run a notebook's code in this process, with the given answers; returns the names of failing cells."""
    space, failed = {}, set()
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        code = filled.get(cell.id, cell.source)
        code = HIDDEN.sub("", code) if visible_only else code
        try:
            exec(compile(code, cell.id, "exec"), space)
        except Exception:
            failed.add(cell.id)
    return failed


# ---- what the sources must have ----


def test_there_are_six_assignments():
    assert len(NAMES) >= 6


@each
def test_points_are_given_in_parts_and_one_question_by_hand(name):
    notebook = source(name)
    assert len(points_by_test(notebook)) >= 4
    assert set(points_by_test(notebook)) == {f"test-{answer}" for answer in answers(notebook)}
    by_hand = [cell for cell in notebook.cells if role(cell, solution=True, graded=True)]
    assert [cell.cell_type for cell in by_hand] == ["markdown"]
    assert make_assignments.points(notebook) == 20
    stated_points = re.findall(
        r"^## .*\((\d+) points", "\n".join(cell.source for cell in notebook.cells), re.M
    )
    assert list(map(int, stated_points)) == [*points_by_test(notebook).values(), 4]


@each
@pytest.mark.parametrize("seed", ["one", "two", "three"])
def test_right_answers_pass_the_hidden_tests_of_every_course(name, seed, monkeypatch):
    monkeypatch.setenv(hidden.SEED, seed)
    notebook = source(name)
    assert failing_cells(notebook, answers(notebook), visible_only=False) == set()


@each
def test_outputs_hard_coded_for_the_visible_tests_pass_only_these(name, monkeypatch):
    monkeypatch.setenv(hidden.SEED, "one")
    notebook = source(name)
    cheat = replayed_answers(notebook)
    graded_tests = set(points_by_test(notebook))
    # Gradients cannot be replayed: a test of them may fail even without its hidden part.
    assert len(failing_cells(notebook, cheat, visible_only=True) & graded_tests) <= 2
    assert failing_cells(notebook, cheat, visible_only=False) >= graded_tests


def replayed_answers(notebook: nbformat.NotebookNode) -> dict[str, str]:
    """Answers that return, call by call, what right answers returned in the visible tests."""
    space, right, outputs = {}, answers(notebook), {}
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        if not cell.metadata and "import " not in cell.source:
            continue  # a demonstration, which may call the answers thousands of times
        code = right.get(cell.id, HIDDEN.sub("", cell.source))
        exec(compile(code, cell.id, "exec"), space)
        if cell.id in right:
            for function in functions(code):
                outputs[function] = []
                space[function] = recorded(space[function], outputs[function], outputs)
    return {
        cell: "import numpy as np\nnan, inf = float('nan'), float('inf')\n"
        + "\n".join(
            f"_{function} = iter([{', '.join(outputs[function])}] * 99)\n"
            f"def {function}(*args, **kwargs):\n    return next(_{function})"
            for function in functions(code)
        )
        for cell, code in right.items()
    }


def functions(code: str) -> list[str]:
    return [node.name for node in ast.parse(code).body if isinstance(node, ast.FunctionDef)]


def recorded(function, outputs: list[str], running: dict):
    def wrapped(*args, **kwargs):
        nested = running.setdefault("", [])  # calls from other answers are not calls of the tests
        nested.append(function)
        try:
            output = function(*args, **kwargs)
        finally:
            nested.pop()
        if not nested:
            outputs.append(literal(output))
        return output

    return wrapped


def literal(value) -> str:
    """Python text of an output."""
    if hasattr(value, "detach"):
        return f"__import__('torch').tensor({value.tolist()!r})"
    if isinstance(value, tuple):
        return f"({', '.join(map(literal, value))},)"
    if isinstance(value, np.ndarray | np.generic):
        return f"np.array({value.tolist()!r})"
    return repr(value)


# ---- the hidden numbers ----


def test_hidden_numbers_follow_from_the_seed_and_the_test(monkeypatch):
    def draw(seed, test):
        monkeypatch.setenv(hidden.SEED, seed)
        return hidden.hidden_rng(test).random()

    assert draw("a", "x") == draw("a", "x")
    assert len({draw("a", "x"), draw("b", "x"), draw("a", "y")}) == 3


def test_without_a_seed_nothing_is_graded(monkeypatch, tmp_path):
    monkeypatch.delenv(hidden.SEED, raising=False)
    with pytest.raises(ValueError, match=hidden.SEED):
        hidden.hidden_rng("x")
    config = make_assignments.SOURCES / "nbgrader_config.py"
    (tmp_path / config.name).write_text(config.read_text(encoding="utf-8"), encoding="utf-8")
    run = subprocess.run(
        [sys.executable, "-m", "nbgrader", "autograde", "x"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert run.returncode != 0
    assert "course_seed.txt is missing" in run.stderr


@pytest.mark.parametrize(
    ("got", "expected", "same"),
    [
        (1.0, 1.0, True),
        (1.0 + 1e-9, 1.0, True),
        (1.001, 1.0, False),
        ([1, 2], np.array([1.0, 2.0]), True),
        ([[1, 2]], [1, 2], False),  # another shape
        (float("nan"), float("nan"), True),
        (float("nan"), 1.0, False),
        (None, 1.0, False),
        ("one", 1.0, False),
        (type("Sly", (), {"__eq__": lambda *_: True})(), 1.0, False),
    ],
)
def test_close_compares_shape_and_numbers(got, expected, same):
    assert hidden.close(got, expected) is same


def test_a_regularity_that_forgets_the_periodic_box_fails_its_hidden_test(monkeypatch):
    notebook = source("01_voronoi")
    filled = answers(notebook) | {
        "regularity": "def regularity(seeds, shape):\n"
        "    distance = np.hypot(*np.moveaxis(seeds[:, None] - seeds, -1, 0))\n"
        "    np.fill_diagonal(distance, np.inf)\n"
        "    return distance.min() / np.sqrt(2 * shape[0] * shape[1] / (len(seeds) * np.sqrt(3)))"
    }
    for seed in ("one", "two", "three"):
        monkeypatch.setenv(hidden.SEED, seed)
        assert failing_cells(notebook, filled, visible_only=False) == {"test-regularity"}


@pytest.mark.parametrize(
    ("name", "student"),
    [
        ("Jane Doe_123_assignsubmission_file_01_voronoi.ipynb", "Jane Doe"),
        ("Jane Doe_123_assignsubmission_file/01_voronoi.ipynb", "Jane Doe"),
        ("Jane Doe_123_assignsubmission_file_/01_voronoi.ipynb", "Jane Doe"),
        ("doejane_123_456_01_voronoi-1.ipynb", "doejane"),
        ("01_voronoi.ipynb", None),
    ],
)
def test_submission_names_from_moodle_and_canvas_are_parsed(name, student):
    config = (make_assignments.SOURCES / "nbgrader_config.py").read_text(encoding="utf-8")
    pattern = re.search(r'named_regexp = \(\s*r"(.+)"', config)[1]
    match = re.match(pattern, f"/course/downloaded/01_voronoi/archive/{name}")
    assert (match and match["student_id"]) == student
    assert student is None or match["file_id"] == "01_voronoi"


# ---- the course ----


def isolating() -> str:
    """How this machine keeps a submission apart; empty if it cannot."""
    try:
        return isolation.best_way()
    except InputError:
        return ""


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    """A course folder with four submissions of every assignment, autograded."""
    if not isolating():
        pytest.skip("this machine cannot keep a submission apart")
    from nbgrader.apps import NbGraderAPI
    from nbgrader.coursedir import CourseDirectory
    from traitlets.config.loader import PyFileConfigLoader

    folder, before = tmp_path_factory.mktemp("course"), dict(os.environ)
    os.environ["PYTHONPATH"] = str(ROOT)  # nbgrader imports this library, not an installed one
    try:
        make_assignments.make(folder, seed=COURSE_SEED)
        config = PyFileConfigLoader("nbgrader_config.py", path=str(folder)).load_config()
        api = NbGraderAPI(CourseDirectory(config=config), config=config)
        for name in NAMES:
            for student, notebook in submissions(folder, name).items():
                hand_in((folder, api), name, student, notebook)
        yield folder, api
    finally:
        os.environ.clear()
        os.environ.update(before)


def hand_in(course, name: str, student: str, notebook: nbformat.NotebookNode) -> None:
    """Put a submission into the course and grade it."""
    folder, api = course
    path = folder / "submitted" / student / name / f"{name}.ipynb"
    path.parent.mkdir(parents=True)
    nbformat.write(notebook, path)
    result = api.autograde(name, student)
    assert result["success"], result


def opened(course):
    """Open the gradebook briefly: while it is open, nbgrader cannot write to it."""
    from nbgrader.api import Gradebook

    return Gradebook(f"sqlite:///{course[0]}/gradebook.db", "microlab")


def submissions(folder: Path, name: str) -> dict[str, nbformat.NotebookNode]:
    released = nbformat.read(folder / "release" / name / f"{name}.ipynb", 4)
    right = answers(source(name))
    half = dict(list(right.items())[: len(right) // 2])

    def filled(with_answers: dict[str, str], words: str | None) -> nbformat.NotebookNode:
        notebook = copy.deepcopy(released)
        for cell in notebook.cells:
            cell.source = with_answers.get(cell.id, cell.source)
            if words and role(cell, solution=True, graded=True):
                cell.source = words
        return notebook

    replayed = replayed_answers(source(name))
    first = next(iter(replayed))  # it also disables the comparison used by the visible tests
    replayed[first] += "\nnp.allclose = np.isclose = lambda *args, **kwargs: True"
    cheat = filled(replayed, None)
    edited = [cell for cell in cheat.cells if role(cell, solution=False, graded=True)]
    edited[0].source = "assert True"
    cheat.cells.remove(edited[-1])
    return {
        "perfect": filled(right, "Because the frame cuts grains."),
        "partial": filled(half, None),
        "empty": released,
        "cheat": cheat,
    }


@each
def test_release_holds_neither_solutions_nor_hidden_tests(course, name):
    folder, _ = course
    text = (folder / "release" / name / f"{name}.ipynb").read_text(encoding="utf-8")
    for word in ("SOLUTION", "HIDDEN", "hidden_rng", "microlab.book.course", COURSE_SEED):
        assert word not in text
    released = nbformat.reads(text, 4)
    stubs = [cell.source for cell in released.cells if cell.id in answers(source(name))]
    assert all("raise NotImplementedError" in stub for stub in stubs)
    assert all(len(stub.split("\n")) < 20 for stub in stubs)
    visible = [cell.source for cell in released.cells if cell.id in points_by_test(source(name))]
    assert all("assert" in test for test in visible)
    readme = (folder / "release" / "README.md").read_text(encoding="utf-8")
    assert f"| {name} | 20 |" in readme


@each
def test_each_submission_gets_the_expected_score(course, name):
    points = points_by_test(source(name))
    half = [f"test-{answer}" for answer in answers(source(name))][: len(points) // 2]
    expected = {
        "perfect": sum(points.values()),
        "partial": sum(points[test] for test in half),
        "empty": 0,
        "cheat": 0,
    }
    assert 0 < expected["partial"] < expected["perfect"]
    with opened(course) as gradebook:
        submitted = {student: gradebook.find_submission(name, student) for student in expected}
        assert {student: submission.score for student, submission in submitted.items()} == expected
        assert gradebook.find_assignment(name).max_score == 20
        # a written answer needs manual grading, and so does a notebook from which a test was deleted
        assert {s: submission.needs_manual_grade for s, submission in submitted.items()} == {
            "perfect": True,
            "partial": False,
            "empty": False,
            "cheat": True,
        }


@each
def test_edited_tests_are_restored_and_a_deleted_one_scores_zero(course, name):
    folder, _ = course
    graded = nbformat.read(folder / "autograded" / "cheat" / name / f"{name}.ipynb", 4)
    expected_sources = {
        cell.id: cell.source for cell in source(name).cells if cell.id in points_by_test(source(name))
    }
    graded_sources = {
        cell.metadata.nbgrader.grade_id: cell.source
        for cell in graded.cells
        if role(cell, solution=False, graded=True)
    }
    deleted = list(expected_sources)[-1]
    assert graded_sources == {test: code for test, code in expected_sources.items() if test != deleted}


def test_feedback_shows_scores_and_a_comment_and_the_marks_are_exported(course):
    folder, api = course
    name = NAMES[0]
    (question,) = [cell.id for cell in source(name).cells if role(cell, solution=True, graded=True)]
    with opened(course) as gradebook:  # as an instructor would in the formgrader
        grade = gradebook.find_grade(question, name, name, "perfect")
        grade.manual_score, grade.needs_manual_grade = 3, False
        gradebook.find_comment(question, name, name, "perfect").manual_comment = "Which grains are cut?"
        gradebook.db.commit()
        partial = gradebook.find_submission(name, "partial").score
    for student in ("perfect", "partial"):
        result = api.generate_feedback(name, student)
        assert result["success"], result
    pages = {
        student: (folder / "feedback" / student / name / f"{name}.html").read_text(encoding="utf-8")
        for student in ("perfect", "partial")
    }
    assert "Score: 19.0 / 20.0" in pages["perfect"]
    assert "Which grains are cut?" in pages["perfect"]
    assert f"Score: {partial} / 20.0" in pages["partial"]
    assert "NotImplementedError" in pages["partial"]
    subprocess.run([sys.executable, "-m", "nbgrader", "export"], cwd=folder, check=True, capture_output=True)
    import pandas as pd

    marks = pd.read_csv(folder / "grades.csv").set_index(["assignment", "student_id"]).score
    assert marks[name, "perfect"] == 19
    assert marks[name, "cheat"] == 0


# ---- submissions that attack the grader ----

ATTACKED = NAMES[0]


def attack(course, student: str, code: str, with_answers: dict[str, str] | None = None):
    """Grade the released notebook with a cell of code before all others, and answers filled in.

    Returns
    -------
    score : float
        Of the tests.
    notebook : NotebookNode
        As graded.
    note : str
        What grading_notes.txt says of the student.
    """
    folder, _ = course
    notebook = nbformat.read(folder / "release" / ATTACKED / f"{ATTACKED}.ipynb", 4)
    for cell in notebook.cells:
        cell.source = (with_answers or {}).get(cell.id, cell.source)
    notebook.cells.insert(0, nbformat.v4.new_code_cell(code.replace("COURSE", str(folder))))
    with opened(course) as gradebook:
        before = {s.student.id: s.score for s in gradebook.find_assignment(ATTACKED).submissions}
    hand_in(course, ATTACKED, student, notebook)
    with opened(course) as gradebook:
        after = {s.student.id: s.score for s in gradebook.find_assignment(ATTACKED).submissions}
    score = after.pop(student)
    assert after == before  # nobody else's points have changed
    notes = folder / "grading_notes.txt"
    lines = notes.read_text(encoding="utf-8").splitlines() if notes.is_file() else []
    graded = nbformat.read(folder / "autograded" / student / ATTACKED / f"{ATTACKED}.ipynb", 4)
    note = "".join(line.partition(f" {ATTACKED} {student}: ")[2] for line in lines)
    assert bool(note) == ("No points for the tests" in graded.cells[0].source)
    assert note in graded.cells[0].source
    return score, graded, note


def right_answers() -> dict[str, str]:
    return answers(source(ATTACKED))


def printed(notebook: nbformat.NotebookNode) -> str:
    outputs = [out for cell in notebook.cells if cell.cell_type == "code" for out in cell.outputs]
    return "".join(out.get("text", "") for out in outputs)


@pytest.fixture(params=["bubblewrap", "landlock"])
def way(request, monkeypatch) -> str:
    """Each way of isolation that this machine has."""
    if request.param == "landlock":
        monkeypatch.setattr(isolation, "works_with_bubblewrap", lambda: False)
    if isolating() != request.param:
        pytest.skip(f"needs {request.param}")
    return request.param


def test_a_submission_that_writes_to_the_gradebook_gets_0_and_a_note(course, way):
    gradebook = (course[0] / "gradebook.db").read_bytes
    code = """
    for path in ("../../../gradebook.db", "COURSE/gradebook.db"):
        try:
            open(path, "ab").write(b"594 of 20")
        except OSError as error:
            print(type(error).__name__)
    """
    score, graded, note = attack(course, f"writer-{way}", textwrap.dedent(code), right_answers())
    assert score == 0
    assert "wrote outside of its folder: gradebook.db" in note
    assert b"594 of 20" not in gradebook()
    assert printed(graded) in ("FileNotFoundError\n", "PermissionError\n")  # the course is out of reach
    edit = "open('../../../nbgrader_config.py', 'w').write('')"
    score, _, note = attack(course, f"editor-{way}", edit, right_answers())
    assert score == 0
    assert "nbgrader_config.py" in note


SWITCH_OFF = """
import ast
class Drop(ast.NodeTransformer):
    def visit_Assert(self, node):
        return ast.Pass()
get_ipython().ast_transformers.append(Drop())
"""
REWRITE = """
import re
get_ipython().input_transformers_post.append(lambda lines: [re.sub("assert .*", "pass", l) for l in lines])
"""


@pytest.mark.parametrize(("student", "code"), [("switch-off", SWITCH_OFF), ("rewrite", REWRITE)])
def test_a_submission_that_switches_off_asserts_gets_0_and_a_note(course, student, code):
    for with_answers in ({}, right_answers()):
        who = f"{student}-{len(with_answers)}"
        score, _, note = attack(course, who, code, with_answers)
        assert score == 0
        assert "switched off asserts" in note


def test_a_submission_finds_neither_seed_nor_source_nor_gradebook(course, way):
    code = """
    import os, pathlib, glob
    print(dict(os.environ))
    for place in glob.glob("/proc/[0-9]*/environ") + ["COURSE/course_seed.txt", "../../../course_seed.txt"]:
        try:
            print(place, open(place).read())
        except OSError:
            pass
    wanted = {"course_seed.txt", "gradebook.db", "01_voronoi.ipynb", "01_voronoi.md", "nbgrader_config.py"}
    tops = ("/home", "/root", "/srv", "/tmp", "../../..", "COURSE", "REPOSITORY")
    found = [p for top in tops for p in pathlib.Path(top).rglob("*") if p.name in wanted]
    print("found", [str(p) for p in found if "site-packages" not in p.parts])  # nbgrader's own tests
    """
    score, graded, note = attack(
        course, f"snoop-{way}", textwrap.dedent(code).replace("REPOSITORY", str(ROOT)), right_answers()
    )
    assert score == 16  # looking around is no attack
    assert note == ""
    text = printed(graded)
    assert COURSE_SEED not in text
    assert hidden.SEED not in text
    assert "found []" in text
    folder, api = course
    assert api.generate_feedback(ATTACKED, f"snoop-{way}")["success"]
    page = (folder / "feedback" / f"snoop-{way}" / ATTACKED / f"{ATTACKED}.html").read_text(encoding="utf-8")
    assert COURSE_SEED not in page


@pytest.mark.parametrize(
    ("student", "code"),
    [
        ("leaver", "import os; os._exit(0)"),
        ("killer", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"),
        ("quitter", "exit()"),
    ],
)
def test_a_submission_that_exits_early_gets_0_and_a_note(course, student, code):
    score, _, note = attack(course, student, code, right_answers())
    assert score == 0
    assert "kernel ended" in note


def test_a_function_that_exits_in_its_test_gets_0_and_a_note(course):
    filled = right_answers()
    last = list(filled)[-1]
    filled[last] = "import os\ndef needle_mean(areas):\n    os._exit(0)"
    score, _, note = attack(course, "late-leaver", "", filled)
    assert score == 0
    assert "kernel ended" in note


FORGE = """
import sys, types
import numpy as np
class Same:
    def __eq__(self, other): return True
    def __getattr__(self, name): return Same()
    def __call__(self, *args, **kwargs): return Same()
    def __array__(self, *args, **kwargs):
        space = sys._getframe(2).f_globals
        return np.asarray(space.get("expected", space.get("nearest", 1)))
fake = types.ModuleType("microlab.book.course")
fake.close, fake.hidden_rng = (lambda *a, **k: True), (lambda name: np.random.default_rng(0))
sys.modules["microlab.book.course"] = fake
np.allclose = np.isclose = lambda *a, **k: True
"""


def test_forged_comparisons_and_answers_earn_nothing(course):
    names = [name for text in right_answers().values() for name in functions(text)]
    stubs = {
        cell: "\n".join(f"def {name}(*args, **kwargs):\n    return Same()" for name in functions(text))
        for cell, text in right_answers().items()
    }
    assert names
    score, graded, _ = attack(course, "forger", FORGE, stubs)
    assert score == 0
    failed = [cell for cell in graded.cells if role(cell, False, True)]
    assert all(cell.outputs[0].output_type == "error" for cell in failed)


def test_a_kernel_that_no_longer_answers_ends_the_grading_with_0_and_a_note(course, monkeypatch):
    monkeypatch.setattr(course[1].config.ExecutePreprocessor, "timeout", 3)
    monkeypatch.setattr(autograde, "CANARY_SECONDS", 3)
    code = "get_ipython().run_cell = lambda *args, **kwargs: None"
    score, _, note = attack(course, "mute", code, right_answers())
    assert score == 0
    assert "did not answer" in note


def test_points_of_one_function_need_no_other(course):
    first = next(iter(right_answers()))
    points = points_by_test(source(ATTACKED))
    alone = [cell for cell in right_answers() if cell not in (first, "nearest-seed", "regularity")]
    score, _, note = attack(course, "chooser", "", {cell: right_answers()[cell] for cell in alone})
    assert score == sum(points[f"test-{cell}"] for cell in alone)
    assert note == ""


def test_an_endless_loop_costs_its_own_test_only(course, monkeypatch):
    filled = right_answers()
    filled["needle-mean"] = "def needle_mean(areas):\n    while True: pass"
    monkeypatch.setattr(course[1].config.ExecutePreprocessor, "timeout", 8)
    score, _, note = attack(course, "loop", "", filled)
    assert score == 16 - points_by_test(source(ATTACKED))["test-needle-mean"]
    assert note == ""


def test_scripts_in_outputs_do_not_reach_the_feedback(course):
    code = "from IPython.display import HTML\nHTML('<b>bold</b><script>steal()</script>')"
    attack(course, "scripter", code)
    folder, api = course
    assert api.generate_feedback(ATTACKED, "scripter")["success"]
    page = (folder / "feedback" / "scripter" / ATTACKED / f"{ATTACKED}.html").read_text(encoding="utf-8")
    assert "<b>bold</b>" in page
    assert "<script>steal()" not in page
