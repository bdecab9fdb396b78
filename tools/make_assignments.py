"""Make the assignments: a course folder for nbgrader, with the release for students (``make assignments``).

    tutorials/assignments/NN_name/NN_name.md  ->  COURSE/source/   notebooks with solutions and hidden tests
                                              ->  COURSE/release/  notebooks to hand out

In the sources a cell's ``nbgrader`` metadata holds only what differs: ``solution: true`` for a cell to fill
in, ``points: 3`` for a graded one, and its ``grade_id``. Both together mark the question graded by hand.
"""

from __future__ import annotations

import argparse
import os
import secrets
import shutil
import sys
from pathlib import Path

import jupytext
import nbformat
from addresses import addresses

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ROOT / "tutorials" / "assignments"


def assignments() -> list[Path]:
    """The sources, in the order of the chapters."""
    return sorted(SOURCES.glob("[0-9]*/[0-9]*.md"))


def build(source: Path) -> nbformat.NotebookNode:
    """The instructor's notebook of one assignment, with nbgrader's metadata written out.

    Raises
    ------
    ValueError
        If a cell's metadata is not complete, or two cells share a grade_id.
    """
    notebook = jupytext.read(source)
    notebook.metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    grade_ids = set()
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"
        marks = cell.metadata.get("nbgrader")
        cell.metadata = {}
        if marks is None:
            continue
        name = marks.get("grade_id")
        if not name or name in grade_ids or not marks.keys() <= {"grade_id", "points", "solution"}:
            raise ValueError(
                f"{source.name}: cell {number} has the nbgrader metadata {dict(marks)}; "
                "it must hold a grade_id of its own, and points or solution: true"
            )
        grade_ids.add(name)
        solution, graded = bool(marks.get("solution")), "points" in marks
        cell.id = name
        cell.metadata["nbgrader"] = {
            "grade_id": name,
            "grade": graded,
            "solution": solution,
            "locked": graded and not solution,
            "task": False,
            "schema_version": 3,
            **({"points": marks["points"]} if graded else {}),
        }
    return notebook


def points(notebook: nbformat.NotebookNode) -> float:
    """Total points of an assignment."""
    return sum(cell.metadata.get("nbgrader", {}).get("points", 0) for cell in notebook.cells)


def make(course: Path, seed: str | None = None) -> None:
    """Write or update the course folder; an existing seed, gradebook and submissions are kept.

    Raises
    ------
    RuntimeError
        If nbgrader refuses an assignment; its own message follows.
    """
    from nbgrader.apps import NbGraderAPI
    from nbgrader.coursedir import CourseDirectory
    from traitlets.config.loader import PyFileConfigLoader

    # nbgrader runs the command alembic: use the one next to this Python, even if no environment is activated.
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    course.mkdir(parents=True, exist_ok=True)
    course.chmod(0o700)  # gradebook, seed and solutions are the instructor's
    seed_file = course / "course_seed.txt"
    if seed is not None or not seed_file.is_file():
        with os.fdopen(os.open(seed_file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as out:
            out.write((seed or secrets.token_hex(16)) + "\n")
    shutil.copy(SOURCES / "nbgrader_config.py", course)
    config = PyFileConfigLoader("nbgrader_config.py", path=str(course)).load_config()
    api = NbGraderAPI(CourseDirectory(config=config), config=config)
    rows, site = [], addresses()
    for source in assignments():
        name, notebook = source.stem, build(source)
        (course / "source" / name).mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook, course / "source" / name / f"{name}.ipynb")
        result = api.generate_assignment(name)
        if not result["success"]:
            raise RuntimeError(
                f"nbgrader could not release {name}:\n{result.get('log') or result.get('error')}"
            )
        (chapter,) = (SOURCES.parent).glob(f"{name[:2]}_*.md")
        rows.append(
            f"| {name} | {points(notebook):g} | [{chapter.stem}]({site.page(f'tutorials/{chapter.stem}')}) |"
        )
    text = (SOURCES / "students.md").read_text(encoding="utf-8").format(rows="\n".join(rows))
    (course / "release" / "README.md").write_text(text, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("course", type=Path, help="the course folder, made if it is not there")
    args = parser.parse_args()
    course = args.course.expanduser().resolve()
    make(course)
    print(f"For students:      {course / 'release'}")
    print(f"Instructor only:   {course / 'source'} (solutions), {course / 'course_seed.txt'} (hidden tests)")
    print(f"Grade in {course}, as the instructor's guide of the book says.")


if __name__ == "__main__":
    main()
