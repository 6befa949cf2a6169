"""`labutils grade`: mark a class's notebooks, one folder of results, nothing written outside of it.

The answers run elsewhere (`grade_process`); here their results are judged, at inputs from a secret seed, and written
down: `grades.csv` for Moodle or Canvas, a page for each student, a list of what a person should look at.
"""

from __future__ import annotations

import builtins
import contextlib
import csv
import functools
import hashlib
import io
import json
import os
import queue
import re
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import nbformat
import torch
from tqdm import tqdm

from .. import exercises, parameters, training
from . import grade_alike, grade_answers, grade_package, grade_process, grade_submissions, teach
from .grade_answers import Answer
from .grade_process import Limits, Outcome, Worker, WorkerLost
from .grade_submissions import Submission

MARKER = "grading.json"
SECRET = "secret.txt"
WITHHELD = "is withheld while answers are graded"


class GradingError(ValueError):
    """The folder or the secret cannot be used; the message says what to do."""


@dataclass
class Part:
    """Of a mark. public: what the student reads, no value in it; message: what the teacher may read."""

    title: str
    passed: bool
    public: str
    message: str
    hint: str = ""
    why: str = ""


@dataclass
class Mark:
    """An exercise of a student."""

    exercise: str
    problem: int
    points: float
    most: int
    parts: list[Part]
    note: str = ""


@dataclass
class Record:
    """All that is known of a student: what is kept in DIR/results. look: (what, detail) for a person; texts: the
    answers' source by exercise."""

    student: str
    number: str
    label: str
    key: str
    digest: str
    marks: list[Mark] = field(default_factory=list)
    look: list[tuple[str, str]] = field(default_factory=list)
    texts: dict[str, str] = field(default_factory=dict)

    @property
    def points(self) -> float:
        return sum((mark.points for mark in self.marks), 0.0)


# --- what is asked -----------------------------------------------------------------------------------------


Exercises = dict[str, exercises.Exercise]


def course() -> tuple[Exercises, dict[str, int]]:
    """The exercises that the notebooks have, and their open questions with the points a person gives."""
    read = {path.name: nbformat.read(path, as_version=4) for path in parameters.notebooks().values()}
    tasks = [task for name, notebook in read.items() for task in teach.tasks(notebook, name)]
    asked = {task.name: exercises.EXERCISES[task.name] for task in tasks if not task.open}
    return asked, {task.name: task.points for task in tasks if task.open}


# --- one student -------------------------------------------------------------------------------------------


def collect(submission: Submission, asked: Exercises) -> tuple[dict[str, Answer], list[tuple[str, str]], list[bytes]]:
    """The best answer to each exercise in what a student handed in, what to look at, all contents."""
    notebooks, look, contents = [], [], []
    for name, content in submission.contents():
        contents.append(name.encode(errors="replace") + b"\0" + (content if isinstance(content, bytes) else b""))
        try:
            if isinstance(content, str):
                raise grade_answers.NotANotebook(content)
            found, problems = grade_answers.statements(grade_answers.code_cells(content))
        except grade_answers.NotANotebook as error:
            look.append(("not read", f"{name}: {error}"))
            continue
        look += [("cell not read", f"{name}: {problem}") for problem in problems]
        notebooks.append((name, found))
    everywhere = [name for exercise in asked.values() for name in exercise.functions]
    chosen = {}
    for exercise in asked.values():
        answers = []
        for name, found in notebooks:
            with contextlib.suppress(RecursionError, MemoryError):
                answers.append((name, grade_answers.answer(found, exercise.functions, everywhere)))
        if not answers:
            chosen[exercise.name] = Answer([], exercise.functions)
            continue
        written = [pair for pair in answers if pair[1].whole]
        name, answer = max(written or answers, key=lambda pair: -len(pair[1].missing) - len(pair[1].stubs))
        if written:
            name, answer = written[-1]
            if len({other.text for _, other in written}) > 1:
                names = ", ".join(other for other, _ in written)
                look.append(("answered twice", f"{exercise.name}: in {names}; graded: {name}"))
        if answer.again:
            look.append(("defined twice", f"{', '.join(answer.again)} in {name}; graded: the last"))
        chosen[exercise.name] = answer
    return chosen, look, contents


Run = Callable[[Sequence[str]], Outcome]  # asks an answer; these functions of other exercises are the right ones


def mark(exercise: exercises.Exercise, answer: Answer, run: Run, seed: int) -> tuple[Mark, list]:
    """The mark of an answer and what a person should look at. run: is not called where there is no answer.

    What an answer borrows from another exercise is the student's own if it is there. Where marks are lost, it is
    asked with the right ones, too: a mistake costs once.
    """
    look: list[tuple[str, str]] = []
    if len(answer.missing) + len(answer.stubs) == len(exercise.functions):
        outcome = Outcome(["NotImplementedError: not answered"] * len(exercise.parts))
    else:
        outcome = run([name for name, there in answer.borrowed.items() if not there])
    verdicts = exercises.judge(exercise, outcome.results, seed)
    if any(answer.borrowed.values()) and not all(verdict.passed for verdict in verdicts):
        other = run([*answer.borrowed])
        again = exercises.judge(exercise, other.results, seed)
        if sum(verdict.passed for verdict in again) > sum(verdict.passed for verdict in verdicts):
            outcome, verdicts = other, again
    parts = []
    for k, (verdict, result) in enumerate(zip(verdicts, outcome.results, strict=True)):
        hint = (verdict.mistake.title, verdict.mistake.why) if verdict.mistake else ("", "")
        public = "" if verdict.passed else _public(result, verdict, outcome, k)
        parts.append(Part(verdict.part, verdict.passed, public, verdict.message, *hint))
    points = exercises.points(exercise, verdicts)
    note = ""
    if answer.missing:
        note = f"Not found in what was handed in: {', '.join(answer.missing)}."
    elif answer.stubs:
        note = f"Not answered: {', '.join(answer.stubs)}."
    if points < exercise.points:
        if outcome.reason:
            look.append(("stopped", f"{exercise.name}: {_reason(outcome.reason)}"))
        look += [("helper failed", f"{exercise.name}: {text}") for text in outcome.notes]
        if any(isinstance(r, str) and WITHHELD in r for r in outcome.results):
            look.append(("calls the package", f"{exercise.name}: it calls the package's own function"))
    return Mark(exercise.name, exercise.problem, points, exercise.points, parts, note), look


def _public(result: Any, verdict: exercises.Verdict, outcome: Outcome, k: int) -> str:
    """What went wrong, without any value: a message that an answer raises could carry the inputs out."""
    if isinstance(result, str) and WITHHELD in result:
        return "it calls the package's own function, which is not there while answers are graded"
    if not verdict.answered:
        return "not answered yet"
    kind = outcome.kinds.get(k)
    if isinstance(result, str) and kind not in (None, "no numbers"):
        known = isinstance(getattr(builtins, kind, None), type)
        where = outcome.where.get(k, "")
        where = f", {where}" if re.fullmatch(r"code cell \d{1,4}, line \d{1,5}", where) else ""
        return f"it raised {kind if known else 'an error of its own'}{where}"
    if isinstance(result, str):
        unread = "it returned nothing that can be read as numbers"
        return _reason(outcome.reason) if kind is None and outcome.reason else unread
    return "its shape is not the expected one" if "shape" in verdict.message else "its values are not the expected ones"


def _reason(reason: str) -> str:
    return {
        "time": "it ran out of time",
        "memory": "it was ended, for want of memory perhaps",
        "size": "it returned more than anybody asked for",
    }.get(reason, f"its process ended before it had answered ({reason})")


# --- the class ---------------------------------------------------------------------------------------------


@dataclass
class Class:
    """What `grade` found. system: "moodle", "canvas" or "folder"; asked: exercises by name; questions: their points;
    open: why answers could reach more than their folder, empty when they could not."""

    system: str
    records: list[Record]
    asked: Exercises
    questions: dict[str, int]
    open: str = ""


def grade(
    submissions: Path,
    out: Path,
    secret: Path | None = None,
    limits: Limits | None = None,
    jobs: int | None = None,
    plain: bool = False,
    say: Callable[[str], None] = print,
) -> Class:
    """Grade all submissions into the folder `out`; called again, what is graded already is kept.

    plain: without namespaces even where they could be had. Raises NoSubmissions, GradingError.
    """
    system, students = grade_submissions.read(submissions)
    _prepare(out, submissions)
    seed, mark_of_secret = _seed(out, secret)
    limits = limits or Limits()
    asked, questions = course()
    calls = {name: grade_process.ship([p.call for p in e.parts]) for name, e in asked.items()}
    base = "\0".join([fingerprint(), mark_of_secret, repr(limits), *asked])
    jobs = max(1, min(jobs or len(os.sched_getaffinity(0)), len(students)))
    with tempfile.TemporaryDirectory(dir=out, prefix=".work-") as work, _Pool(Path(work), limits, jobs, plain) as pool:

        def student(submission: Submission) -> Record:
            chosen, look, contents = collect(submission, asked)
            digest = hashlib.sha256(b"\0".join([base.encode(), *contents])).hexdigest()
            path = out / "results" / f"{submission.key}.json"
            if (known := _known(path, digest)) is not None:
                return known
            record = Record(submission.student, submission.number, submission.label, submission.key, digest, look=look)
            for name, exercise in asked.items():
                answer = chosen[name]
                run = functools.partial(pool.ask, exercise, calls[name], answer, seed)
                found, more = mark(exercise, answer, run, seed)
                record.marks.append(found)
                record.look += more
                record.texts[name] = answer.text if answer.whole else ""
            record.look += _missing(asked, chosen)
            training.write_whole(path, json.dumps(asdict(record), indent=1, ensure_ascii=False))
            return record

        records = _all(students, student, jobs)
        opened = pool.open
    result = Class(system, records, asked, questions, opened)
    write(result, out)
    if opened:
        say(f"answers ran with limits, but not apart from network and files ({opened}); see `labutils grade --help`")
    return result


def _all(students: Sequence[Submission], grade_one: Callable[[Submission], Record], jobs: int) -> list[Record]:
    """Each student's record, in order. What goes wrong with one is in the record, and the class goes on."""
    done: dict[int, Record] = {}
    with ThreadPoolExecutor(jobs) as threads, tqdm(total=len(students), unit="student") as bar:
        futures = {threads.submit(grade_one, one): k for k, one in enumerate(students)}
        try:
            for future in as_completed(futures):
                k = futures[future]
                one = students[k]
                try:
                    done[k] = future.result()
                except Exception as error:
                    look = [("not graded", f"{type(error).__name__}: {error}")]
                    done[k] = Record(one.student, one.number, one.label, one.key, "", look=look)
                bar.update()
        except KeyboardInterrupt:
            threads.shutdown(wait=False, cancel_futures=True)
            raise
    return [done[k] for k in range(len(students))]


class _Pool:
    """Workers for several threads, started when they are first needed, again when one is lost."""

    def __init__(self, work: Path, limits: Limits, jobs: int, plain: bool) -> None:
        self.free: queue.LifoQueue[Worker] = queue.LifoQueue()
        package = grade_package.build(work / "package")
        modules = [f"labutils.{name}" for name in grade_package.WITHHELD]
        work.chmod(0o755)  # the accounts of answers read the package
        self.workers = [Worker(package, work / f"worker{k}", limits, modules, plain) for k in range(jobs)]
        for worker in self.workers:
            self.free.put(worker)
        self.open = ""

    def __enter__(self) -> _Pool:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self.workers:
            worker.__exit__()

    def ask(
        self, exercise: exercises.Exercise, calls: dict, answer: Answer, seed: int, right: Sequence[str]
    ) -> Outcome:
        """As Worker.ask, once more where the worker was lost on the way."""
        worker = self.free.get()
        try:
            for attempt in range(2):
                try:
                    if worker.process is None:
                        worker.__enter__()
                        self.open = worker.open
                    return worker.ask(exercise, calls, answer, seed, right)
                except WorkerLost as error:
                    worker.__exit__()
                    if attempt:
                        return Outcome([f"could not be run: {error}"] * len(exercise.parts), reason="lost twice")
        finally:
            self.free.put(worker)


def _missing(asked: Exercises, chosen: dict[str, Answer]) -> Iterator[tuple[str, str]]:
    """A line for each problem of which nothing is there, else for the names that are not."""
    for problem in sorted({exercise.problem for exercise in asked.values()}):
        names = [name for name, exercise in asked.items() if exercise.problem == problem]
        missing = [function for name in names for function in chosen[name].missing]
        if len(missing) == sum(len(asked[name].functions) for name in names):
            yield "missing", f"nothing of problem {problem}"
        elif missing:
            yield "missing", f"no function {', '.join(missing)}"


# --- the folder --------------------------------------------------------------------------------------------


def _prepare(out: Path, submissions: Path) -> None:
    out, place = Path(os.path.abspath(out)), Path(os.path.abspath(submissions))
    if out == place or place in out.parents:
        raise GradingError(f"{out} lies in {place}, which would be graded next time; choose another folder with --out")
    if seen := [p for p in grade_process.PYTHON for q in (out, place) if q.is_relative_to(p)]:
        raise GradingError(f"{out} or {place} lies in {seen[0]}, which answers may read; grade in another folder")
    if out.exists() and not out.is_dir():
        raise GradingError(f"{out} is a file; choose a folder with --out")
    if out.exists() and any(out.iterdir()) and not (out / MARKER).exists():
        raise GradingError(f"{out} is not empty and was not made by `labutils grade`; choose another with --out")
    (out / "results").mkdir(parents=True, exist_ok=True)
    (out / "feedback").mkdir(exist_ok=True)
    training.write_whole(out / MARKER, json.dumps({"submissions": str(place)}))
    for left in out.glob(".work-*"):  # of a run that was killed
        shutil.rmtree(left, ignore_errors=True)


def _seed(out: Path, secret: Path | None) -> tuple[int, str]:
    """The seed of all inputs from the secret's text, and a mark by which another secret is known."""
    if secret is None:
        secret = out / SECRET
        if not secret.exists():
            secret.touch(mode=0o600)
            secret.write_text(secrets.token_hex(16) + "\n")
    try:
        text = secret.read_bytes().strip()
    except OSError as error:
        raise GradingError(f"the secret {secret} cannot be read ({error.strerror})") from None
    if not text:
        raise GradingError(f"the secret {secret} is empty; write any line of text into it")
    digest = hashlib.sha256(b"labutils grade\0" + text).digest()
    return int.from_bytes(digest[:7], "big"), hashlib.sha256(digest).hexdigest()


def fingerprint() -> str:
    """SHA-256 of what makes a mark: the package's modules, how they are graded, torch."""
    digest = hashlib.sha256(torch.__version__.encode())
    package = Path(parameters.__file__).parent
    for path in sorted([*package.glob("*.py"), *Path(__file__).parent.glob("grade*.py")]):
        if path.stem.isidentifier():
            digest.update(path.read_bytes() + b"\0")
    return digest.hexdigest()


def _known(path: Path, digest: str) -> Record | None:
    """The record of an earlier run, when it is of the same content."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["digest"] != digest:
            return None
        marks = [Mark(**{**m, "parts": [Part(**p) for p in m["parts"]]}) for m in found.pop("marks")]
        look = [tuple(pair) for pair in found.pop("look")]
        return Record(**found, marks=marks, look=look)
    except (OSError, ValueError, KeyError, TypeError):
        return None


# --- what comes out ----------------------------------------------------------------------------------------


def write(found: Class, out: Path) -> None:
    """grades.csv, to_look_at.csv, a page for each student; what was filled in by hand stays."""
    table = out / "grades.csv"
    by_hand = _by_hand(table, found)
    training.write_whole(table, _csv(_grades(found, by_hand)))
    look = [(r.student, what, detail) for r in found.records for what, detail in r.look]
    look += _alike(found.records)
    training.write_whole(out / "to_look_at.csv", _csv([("student", "what", "detail"), *look]))
    shutil.rmtree(out / "feedback", ignore_errors=True)
    for record in found.records:
        place = out / "feedback" / _page_name(found.system, record)
        place.parent.mkdir(parents=True, exist_ok=True)
        training.write_whole(place, page(record, list(found.questions)))
    if found.system == "moodle":  # its “upload multiple feedback files in a zip”
        shutil.make_archive(str(out / "feedback"), "zip", out / "feedback")


def page(record: Record, opened: Sequence[str] = ()) -> str:
    """A student's page: no input, no value, everything escaped."""
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    templates = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    templates.filters["points"] = _number
    problems = sorted({mark.problem for mark in record.marks})
    return templates.get_template("grade_feedback.html.j2").render(
        student=record.student,
        total=_number(record.points),
        most=sum(mark.most for mark in record.marks),
        problems=[(p, [mark for mark in record.marks if mark.problem == p]) for p in problems],
        questions=opened,
    )


def _page_name(system: str, record: Record) -> str:
    if system == "moodle" and record.number:
        student = re.sub(r"[\x00-\x1f/\\]+", "-", record.student)[:80]
        return f"{student}_{record.number}_assignsubmission_file_/feedback.html"
    return f"{record.key}.html"


def _grades(found: Class, by_hand: dict[str, dict[str, str]]) -> Iterator[list[str]]:
    """Rows of grades.csv; the columns around the exercises are those that the system's import asks for."""
    names, opened = list(found.asked), found.questions
    most = {name: exercise.points for name, exercise in found.asked.items()}
    whole = sum(most.values()) + sum(opened.values())
    before, after = {
        "moodle": (
            ["Identifier", "Full name"],
            ["Grade", "Maximum grade", "Last modified (grade)", "Feedback comments"],
        ),
        "canvas": (["Student", "ID", "Section"], ["Total"]),
        "folder": (["Student"], ["Total"]),
    }[found.system]
    yield [*before, *names, *opened, *after]
    if found.system == "canvas":
        yield ["    Points Possible", "", "", *map(str, [*most.values(), *opened.values(), whole])]
    for record in found.records:
        marks = {mark.exercise: mark.points for mark in record.marks}
        hand = by_hand.get(record.key, {})
        total = sum([*marks.values(), *(_value(text) or 0.0 for text in hand.values())], 0.0)
        comment = "; ".join(f"{m.exercise} {_number(m.points)}/{m.most}" for m in record.marks)
        who = {
            "moodle": [f"Participant {record.number}", record.student],
            "canvas": [record.student, record.number, ""],
            "folder": [record.student],
        }[found.system]
        last = [_number(total)]
        if found.system == "moodle":
            last += [str(whole), "-", comment]
        scores = [_number(marks[name]) if name in marks else "" for name in names]
        yield [*who, *scores, *(hand.get(name, "") for name in opened), *last]


def _by_hand(table: Path, found: Class) -> dict[str, dict[str, str]]:
    """What a person wrote into the columns of open questions, by student's key. Raises GradingError for a table that
    cannot be read: it is never replaced."""
    if not table.exists():
        return {}
    try:
        text = table.read_text(encoding="utf-8-sig")
        first = text.partition("\n")[0]
        rows = csv.DictReader(io.StringIO(text), delimiter=";" if first.count(";") > first.count(",") else ",")
        identifier = {"moodle": "Identifier", "canvas": "ID", "folder": "Student"}[found.system]
        if identifier not in (rows.fieldnames or ()):
            raise KeyError(identifier)
        known = {row[identifier]: row for row in rows}
    except (UnicodeDecodeError, csv.Error, KeyError, TypeError):
        raise GradingError(f"{table} cannot be read as the table it was; move it away, then grade again") from None
    keep = {}
    for record in found.records:
        name = {"moodle": f"Participant {record.number}", "canvas": record.number, "folder": _cell(record.student)}
        row = known.get(name[found.system], {})
        keep[record.key] = {q: row[q].strip() for q in found.questions if row.get(q)}
    return keep


def _alike(records: Sequence[Record]) -> Iterator[tuple[str, str, str]]:
    """Pairs of students whose answers are too alike, and answers too much like the package's."""
    given, solved = [], [path.read_text(encoding="utf-8") for path in Path(parameters.__file__).parent.glob("*.py")]
    for path in parameters.notebooks().values():
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type == "code":
                (solved if "answer" in cell.metadata.get("tags", []) else given).append(cell.source)
    texts = {record.key: "\n\n".join(record.texts.values()) for record in records}
    names = {record.key: record.student for record in records}
    for one, other, share in grade_alike.pairs(texts, given):
        yield names[one], "alike", f"{share:.0%} of the answers of {names[one]} and {names[other]} are the same"
    package = grade_alike.runs(solved)
    for record in records:
        shares = {name: grade_alike.copied(text, package) for name, text in record.texts.items()}
        if like := [f"{name} {share:.0%}" for name, share in shares.items() if share >= grade_alike.COPIED]:
            yield record.student, "like the package", ", ".join(like)


def _csv(rows: Any) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerows([_cell(value) for value in row] for row in rows)
    return text.getvalue()


def _cell(value: str) -> str:
    """A table program takes a cell that begins so for a formula, and names come from students."""
    return f"'{value}" if value[:1] in ("=", "+", "@", "\t", "\r") or (value[:1] == "-" and len(value) > 1) else value


def _number(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")


def _value(text: str) -> float | None:
    try:
        return float(text.replace(",", "."))
    except ValueError:
        return None
