"""What was handed in: a folder, a zip from Moodle, a zip from Canvas; whose each file is, by the names these give."""

from __future__ import annotations

import io
import os
import re
import stat
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

MOODLE = re.compile(r"(?P<student>.+?)_(?P<number>\d+)_assignsubmission_[a-z]+(?:_(?P<file>.*))?$", re.DOTALL)
CANVAS = re.compile(r"(?P<student>[^_/]+)(?:_(?i:late))?_(?P<number>\d+)_\d+_(?P<file>.+)$", re.DOTALL)
LARGEST = 64 * 2**20  # of one file, unpacked
MOST = 200  # files of one student
IGNORED = re.compile(r"(^|/)(__MACOSX|\.[^/]*|Thumbs\.db|desktop\.ini)(/|$)")


class NoSubmissions(ValueError):
    """Nothing can be graded there; the message names the place and what was expected."""


@dataclass
class Submission:
    """All that one student handed in. number: Moodle's or Canvas's, empty in a folder; label: the name the system
    gave, which a returned file wants. files: name in it, and how to read it."""

    student: str
    number: str = ""
    label: str = ""
    files: list[tuple[str, Callable[[], bytes]]] = field(default_factory=list)

    @property
    def key(self) -> str:
        """Names the student among the others, and a file."""
        plain = re.sub(r"[^\w-]+", "-", self.student).strip("-")[:60] or "student"
        return f"{plain}-{self.number}" if self.number else plain

    def contents(self) -> Iterator[tuple[str, bytes | str]]:
        """(name, content) of each file, zips inside opened; a text in place of bytes says why one cannot be read."""
        for name, read in self.files[:MOST]:
            try:
                content = read()
            except (OSError, RuntimeError, ValueError, zipfile.BadZipFile, NotImplementedError) as error:
                yield name, f"cannot be read: {error}"
                continue
            if not content.startswith(b"PK\x03\x04"):
                yield name, content
                continue
            try:
                inner = list(_of_zip(zipfile.ZipFile(io.BytesIO(content))))[:MOST]
                yield from ((f"{name}/{other}", read_inner()) for other, read_inner in inner)
            except (OSError, RuntimeError, ValueError, zipfile.BadZipFile, NotImplementedError) as error:
                yield name, f"cannot be unpacked: {error}"
        if len(self.files) > MOST:
            yield self.label or self.student, f"{len(self.files):,} files; the first {MOST} were looked at"


def read(path: Path) -> tuple[str, list[Submission]]:
    """("moodle", "canvas" or "folder", the submissions in the order of the names). Nothing is unpacked on the disk.

    In a folder of neither system each folder is a student's, and each file beside them one student's, who is called
    like it. Raises NoSubmissions.
    """
    if path.is_dir():
        files = list(_of_folder(path))
    elif zipfile.is_zipfile(path):
        files = _without_wrapper(list(_of_zip(zipfile.ZipFile(path))))
    else:
        raise NoSubmissions(f"{path} is neither a folder nor a zip; give what Moodle or Canvas lets you download")
    students: dict[tuple[str, str], Submission] = {}
    systems = []
    for name, open_file in files:
        first, _, rest = name.partition("/")
        system, student, number, inside = "folder", first if rest else PurePosixPath(first).stem, "", rest or first
        if found := MOODLE.match(first):
            system, student, number, inside = "moodle", found["student"], found["number"], rest or found["file"] or ""
        elif not rest and (found := CANVAS.match(first)):
            system, student, number, inside = "canvas", found["student"], found["number"], found["file"]
        systems.append(system)
        submission = students.setdefault((student, number), Submission(student, number, first))
        submission.files.append((inside or first, open_file))
    if not students:
        raise NoSubmissions(f"{path} holds no file; expected notebooks, or the zip that Moodle or Canvas makes")
    _rename_twins(list(students.values()))
    return max(set(systems), key=systems.count), sorted(students.values(), key=lambda s: (s.student.lower(), s.number))


def _rename_twins(submissions: list[Submission]) -> None:
    """Two students whose names make the same file name are told apart by a number."""
    seen: dict[str, int] = {}
    for submission in submissions:
        key = submission.key.lower()
        seen[key] = seen.get(key, 0) + 1
        if seen[key] > 1:
            submission.student += f" ({seen[key]})"


def _of_folder(root: Path) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Links are not followed: they may point anywhere."""
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(f for f in folders if not (Path(folder) / f).is_symlink())
        for name in sorted(names):
            path = Path(folder) / name
            inside = path.relative_to(root).as_posix()
            if not IGNORED.search(inside) and stat.S_ISREG(path.lstat().st_mode):
                yield inside, lambda path=path: _at_most(path.open("rb"))


def _of_zip(archive: zipfile.ZipFile) -> Iterator[tuple[str, Callable[[], bytes]]]:
    for info in archive.infolist():
        parts = [p for p in info.filename.replace("\\", "/").split("/") if p not in ("", ".", "..")]
        name = "/".join(parts)
        if not info.is_dir() and name and not IGNORED.search(name):
            yield name, lambda info=info: _at_most(archive.open(info))


def _at_most(file: io.BufferedIOBase) -> bytes:
    """A zip can say anything about a size, so what counts is what comes out."""
    with file:
        content = file.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise ValueError(f"it is larger than {LARGEST // 2**20} MiB")
    return content


def _without_wrapper(files: list) -> list:
    """Without the one folder around everything, which a zip of a folder has."""
    tops = {name.partition("/")[0] for name, _ in files}
    below = {name.split("/")[1] for name, _ in files if "/" in name}
    if len(tops) == 1 and len(below) > 1 and not any(MOODLE.match(top) for top in tops):
        return [(name.partition("/")[2], read) for name, read in files if "/" in name]
    return files
