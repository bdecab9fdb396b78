# nbgrader reads this file when it is called in the course folder, where `make assignments` puts it.
from pathlib import Path

from nbgrader.converters import Autograde
from nbgrader.preprocessors import Execute

from microlab.book.grading.autograde import IsolatedExecute

course = Path(__file__).resolve().parent
seed_file = course / "course_seed.txt"
if not seed_file.is_file() or not seed_file.read_text(encoding="utf-8").strip():
    # Without it every hidden test would fail, and every student get 0: stop before that.
    raise SystemExit(
        f"{seed_file} is missing or empty: put the course's seed there, or run `make assignments`"
    )
c = get_config()  # noqa: F821  (nbgrader provides it)
c.CourseDirectory.course_id = "microlab"
c.CourseDirectory.root = str(course)

# A submission runs where it sees itself only, tests run outside of it: see the instructor's guide.
c.Autograde.autograde_preprocessors = [
    IsolatedExecute if step is Execute else step for step in Autograde.autograde_preprocessors.default()
]
c.IsolatedExecute.course = str(course)
# Without bubblewrap and Landlock: run submissions as this user of the system, who must not read this folder.
# c.IsolatedExecute.user = "grader"
# What a student's outputs show in the formgrader and in the feedback must not run there.
c.HTMLExporter.sanitize_html = True

# Seconds per cell; a cell of a right answer takes under 20. After an endless loop the other cells are graded.
c.ExecutePreprocessor.timeout = 120
c.ClearSolutions.code_stub = {"python": "raise NotImplementedError  # your turn: replace this line"}
c.ClearSolutions.text_stub = "*Your answer here: replace this line.*"
# Names of files from an LMS, for `nbgrader zip_collect`: student, whatever the LMS adds, assignment. Moodle
# makes Jane Doe_123_assignsubmission_file_01_voronoi.ipynb of it, or in folders
# Jane Doe_123_assignsubmission_file/01_voronoi.ipynb, Canvas doejane_123_456_01_voronoi-1.ipynb.
c.FileNameCollectorPlugin.named_regexp = (
    r".*[/\\](?P<student_id>[^/\\_]+)((_[^/\\]*)?_|_[^/\\]*[/\\])(?P<file_id>\d\d_[a-z][a-z_]*[a-z])"
)
