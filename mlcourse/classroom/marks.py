"""Mark what students handed in: one record per student, a table of marks, feedback, and a report for the teacher."""

import csv
import hashlib
import io
import re
import threading
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from html import escape
from pathlib import Path

import torch

from mlcourse import __version__, files, places
from mlcourse.classroom import answers, course, notebooks
from mlcourse.classroom.collecting import File, HandIn, utc
from mlcourse.classroom.sandbox import SHORT, Clock, Limits, Sandbox, Stopped
from mlcourse.errors import CourseError
from mlcourse.lessons import every_check
from mlcourse.teaching.checks import Check, Verdict

RECORDS = "records"
TABLE, REPORT, FEEDBACK = "marks.csv", "report.html", "feedback"
MOST_NOTEBOOKS = 60  # of one student
UNREAD = "Could not be read"
NUMBER = re.compile(r"\d\d\.\d+")  # of an exercise
KINDS = ("core", "stretch")


@dataclass(frozen=True)
class Settings:
    """What `marks.toml` says.

    Attributes:
        weights: points by the number of an exercise, or by "core" and "stretch" for all others of this kind; 1 where
            it names none. A Grader's settings have them by number.
        due: when hand-ins are due; None when there is no such date.
        late: what the points of a late hand-in are multiplied by.
        seed: of the problems; None takes those that a student's first check in the notebook takes.
    """

    weights: dict[str, float] = field(default_factory=dict)
    due: datetime | None = None
    late: float = 1.0
    seed: int | None = None

    @classmethod
    def read(cls, path: Path) -> "Settings":
        """Read `marks.toml`. Raises CourseError for a value that is no such setting; the line names it."""
        try:
            told = tomllib.loads(path.read_text(encoding="utf-8-sig"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
            raise CourseError(f"{path} is no TOML ({error}); see `mlcourse grade --help` for an example") from None
        known = ("weights", "due", "late", "seed")
        if unknown := sorted(set(told) - set(known)):
            for name in unknown:
                if NUMBER.fullmatch(name) or name in KINDS or (name.isdecimal() and isinstance(told[name], dict)):
                    raise CourseError(
                        f"{path} sets {name}: put exercises below a line [weights], after all other lines"
                    )
            raise CourseError(f"{path} sets {', '.join(unknown)}: it may set {', '.join(known)}")
        weights, due, late, seed = (told.get(name) for name in known)
        if not isinstance(weights or {}, dict):
            raise CourseError(f'{path}: weights is {weights!r}; write a table [weights] with lines such as "05.1" = 2')
        for name, weight in (weights or {}).items():
            if not (NUMBER.fullmatch(name) or name in KINDS) or not _is_number(weight) or weight < 0:
                raise CourseError(f'{path}: the weight {name} = {weight!r} is none; write a line such as "05.1" = 2')
        if due is not None and not isinstance(due, datetime):
            raise CourseError(f"{path}: due is {due!r}; write a day and a time, such as 2026-11-30T18:00:00Z")
        if due is not None and due.tzinfo is None:  # whose 18:00 it is decides who is late
            told = due.isoformat()
            raise CourseError(f"{path}: due is {told}, without a zone; write {told}Z for UTC, or such as {told}+01:00")
        if late is not None and not (_is_number(late) and 0 <= late <= 1):
            raise CourseError(f"{path}: late is {late!r}; write a factor from 0 to 1")
        if seed is not None and (type(seed) is not int or not 0 <= seed < 2**31):
            raise CourseError(f"{path}: seed is {seed!r}; write a whole number from 0 to {2**31 - 1}")
        return cls(weights or {}, None if due is None else utc(due), 1.0 if late is None else float(late), seed)


def _is_number(value) -> bool:
    return type(value) in (int, float) and value == value and abs(value) < float("inf")


# ---- one answer ----

_judging = threading.Lock()  # judges share PyTorch's settings; while one waits for a student's process another works


class _Handle:
    """Stands for an answer in the grader's process. It cannot be called here: the answer itself is elsewhere."""

    def __init__(self, name: str):
        self.__name__ = name

    def __call__(self, *args, **kwargs):
        raise TypeError("an answer never runs in the grader's process")


class RemoteCheck(Check):
    """A check whose answer runs in a sandbox; problems, comparisons and the judge stay here."""

    def __init__(self, check: Check, answer: answers.Answer, sandbox: Sandbox, seed: int):
        super().__init__(
            **{one.name: getattr(check, one.name) for one in fields(Check) if one.init and one.name[0] != "_"}
        )
        self._sandbox, self._stopped = sandbox, ""
        self._request = {
            "exercise": answer.exercise.number,
            "check": answer.exercise.check,
            "name": answer.name,
            "given": answer.given,
            "seed": seed,
            "parts": [vars(part) for part in answer.parts],
        }

    def try_answer(self, answer, given):
        """As in the notebook; the answer is called in its sandbox."""
        outputs, found_by, diagnosis = self._ask(given, double=False)
        if outputs is None:
            return None, found_by, diagnosis
        if fault := self.compare(given, outputs):
            return None, "outputs", fault
        return outputs, "", None

    def try_in_double(self, answer, given):
        """As in the notebook; the answer is called in its sandbox."""
        outputs = self._ask(given, double=True)[0]
        return None if outputs is None or self.compare(given, outputs) else outputs

    def _ask(self, given, *, double: bool) -> tuple[dict | None, str, str | None]:
        if self._stopped:
            return None, "limits", self._stopped
        _judging.release()
        try:
            reply, tensors = self._sandbox.ask({**self._request, "double": double}, given)
        except Stopped as stopped:
            self._stopped = f"the answer was stopped: {stopped}."
            return None, "limits", self._stopped
        finally:
            _judging.acquire()
        found_by = reply.get("found_by")
        if found_by == "":
            return tensors, "", None
        if found_by not in ("stub", "exception", "outputs", "inputs"):
            return None, "outputs", "what came back from its process is no result."
        return None, found_by, _printable(reply.get("diagnosis"))


def _printable(text) -> str:
    """A sentence from a student's process: text of one line, without signs that steer a terminal."""
    return " ".join("".join(sign if sign.isprintable() else " " for sign in str(text)).split())[:1500]


def judge(check: Check, answer: answers.Answer, sandbox: Sandbox, seed: int) -> Verdict:
    """The verdict on one answer, as the student's own check gives it on the problems of `seed`."""
    sandbox.begin_exercise()
    with _judging:
        torch.manual_seed(seed)
        return RemoteCheck(check, answer, sandbox, seed).run(_Handle(answer.name), seed=seed)


# ---- one student ----


@dataclass
class Grader:
    """Marks hand-ins.

    Args:
        out: the folder for marks; finished records in it are kept and not made again.
        settings: weights, date, seed.
        wanted: numbers of notebooks; empty for all that are handed in.
        limits, isolated: of the sandbox.
    """

    out: Path
    settings: Settings = field(default_factory=Settings)
    wanted: tuple[str, ...] = ()
    limits: Limits = field(default_factory=Limits)
    isolated: bool | None = None
    lessons: dict[str, course.Notebook] = field(default_factory=course.notebooks)

    def __post_init__(self):
        if unknown := [number for number in self.wanted if number not in self.lessons]:
            raise CourseError(f"there is no notebook {', '.join(unknown)}: take some of {', '.join(self.lessons)}")
        kinds = {one.number: one.kind for lesson in self.lessons.values() for one in lesson.exercises}
        told = self.settings.weights
        if unknown := sorted(set(told) - set(kinds) - set(KINDS)):
            raise CourseError(f"marks.toml weighs {', '.join(unknown)}, and the course has no such exercise")
        weights = {number: told.get(number, told.get(kind, 1)) for number, kind in kinds.items()}
        self.settings = replace(self.settings, weights=weights)
        self._checks = every_check()
        self._open: set[Sandbox] = set()
        self._stopping = False

    def grade(self, hand_ins: list[HandIn], jobs: int = 1, finished: Callable[[], None] = lambda: None) -> list[dict]:
        """Mark all, and write every record as soon as it is there; `finished` is called after each."""
        pool = ThreadPoolExecutor(jobs)
        try:
            marked = {pool.submit(self.record, one): one.student for one in hand_ins}
            found = {}
            for future in as_completed(marked):
                found[marked[future]] = future.result()
                finished()
        except BaseException:  # Ctrl-C: what runs is ended, and no record is made of it
            self._stopping = True
            pool.shutdown(wait=False, cancel_futures=True)
            for box in list(self._open):
                box.close()
            raise
        pool.shutdown()
        return [found[one.student] for one in hand_ins]

    def record(self, hand_in: HandIn) -> dict:
        """The record of one student: the one that was kept, when nothing has changed, else a new one."""
        path = self.out / RECORDS / f"{file_name(hand_in.student)}.json"
        try:
            digest = hashlib.sha256(f"{hand_in.digest()} {self._fingerprint()}".encode()).hexdigest()
            if (kept := _kept(path)).get("digest") == digest:
                return kept
            record = self._mark(hand_in)
            if not any(SHORT in one["diagnosis"] for one in record["exercises"].values()):  # else it is tried again
                record["digest"] = digest
        except Exception as error:  # one hand-in never ends the marking of a class; without a digest it is tried again
            said = _printable(f"{type(error).__name__}: {error}")[:300]
            note = f"This hand-in could not be marked ({said}); the next run tries it again."
            record = {"student": hand_in.student, "late": False, "notes": [note], "exercises": {}, "unmarked": True}
        if self._stopping:
            raise KeyboardInterrupt
        files.write_json(path, record)
        return record

    def _fingerprint(self) -> str:
        """Of all that a mark depends on besides the hand-in."""
        asked = [vars(one) for lesson in self.lessons.values() for one in lesson.exercises]
        told = [__version__, asked, self.settings.seed, self.wanted, vars(self.limits), self.settings.due, _code()]
        return hashlib.sha256(repr(told).encode()).hexdigest()

    def _mark(self, hand_in: HandIn) -> dict:
        """Read the notebooks of a student and judge their answers."""
        notes = [_printable(one) for one in hand_in.refused]
        if len(hand_in.notebooks) > MOST_NOTEBOOKS:
            notes.append(f"Of {len(hand_in.notebooks)} notebooks the first {MOST_NOTEBOOKS} are read.")
        unread: set[str] = set()
        times: dict[str, datetime] = {}
        read = self.read(hand_in, notes, unread, times)
        if not hand_in.notebooks:
            others = f" (there is: {', '.join(map(_printable, hand_in.others))})" if hand_in.others else ""
            notes.append(f"No notebook was handed in{others}: it is the file that ends in .ipynb.")
        exercises: dict[str, dict] = {}
        clock = Clock(self.limits.clock)
        for number in sorted(read):
            exercises |= self._judge_all(self.lessons[number], read[number], clock)
        late = self.settings.due is not None and any(when > self.settings.due for when in times.values())
        lost = sorted(unread - set(read))
        return {"student": hand_in.student, "late": late, "notes": notes, "exercises": exercises, "unread": lost}

    def read(
        self,
        hand_in: HandIn,
        notes: list[str],
        unread: set[str] | None = None,
        times: dict[str, datetime] | None = None,
    ) -> dict[str, list[notebooks.Cell]]:
        """The cells of a student's notebooks by number, those that are to be marked; sentences are put into `notes`.

        unread: gets the numbers of files without a cell that can be read, "" where the file's name has no number.
        times: gets when each of them came.
        """
        read: dict[str, tuple[File, list[notebooks.Cell], int]] = {}
        for file in hand_in.notebooks[:MOST_NOTEBOOKS]:
            if not self._read(file, read, notes) and unread is not None:
                unread.add(answers.number_of(self.lessons, [], file.name) or "")
        if times is not None:
            times |= {number: file.when for number, (file, _, _) in read.items()}
        return {number: cells for number, (_, cells, _) in read.items()}

    def _read(self, file, read: dict, notes: list[str]) -> bool:
        """Read one file; of several of the same notebook the one with most answers counts. Whether it has cells."""
        name = _printable(file.name)
        try:
            cells, said = notebooks.cells_of(file.read())
        except ValueError as error:
            notes.append(f"{name}: {error}.")
            return False
        notes += [f"{name}: {one}" for one in said]
        number = answers.number_of(self.lessons, cells, file.name) if cells else None
        if number is None:
            if cells:
                notes.append(f"{name}: it holds no exercise of the course.")
            return bool(cells)
        if self.wanted and number not in self.wanted:
            return True
        written = sum(not one.fault and _is_written(one) for one in answers.find(self.lessons[number], cells))
        if number in read:
            other = _printable(read[number][0].name)
            better, worse = (name, other) if written > read[number][2] else (other, name)
            notes.append(f"{worse}: {better} is the same notebook, with as many answers or more, and counts.")
        if number not in read or written > read[number][2]:
            read[number] = (file, cells, written)
        return True

    def _judge_all(self, lesson: course.Notebook, cells: list[notebooks.Cell], clock: Clock) -> dict[str, dict]:
        """The verdicts on all exercises of one notebook. After a crash the next answer gets a new process."""
        found, sandbox = {}, None
        try:
            for answer in answers.find(lesson, cells):
                exercise = answer.exercise
                if answer.fault:
                    found[exercise.number] = _entry(answer, passed=False, found_by="missing", diagnosis=answer.fault)
                    continue
                if not _is_written(answer):
                    said = f"{answer.name} is not written yet."
                    found[exercise.number] = _entry(answer, passed=False, found_by="stub", diagnosis=said)
                    continue
                if clock.left <= 0:
                    said = f"it did not run: the answers before it took all {self.limits.clock:.0f} s of the hand-in."
                    found[exercise.number] = _entry(answer, passed=False, found_by="limits", diagnosis=said)
                    continue
                sandbox = sandbox or self._sandbox(exercise, clock)
                check = self._checks[exercise.check]
                verdict = judge(check, answer, sandbox, self._seed(check))
                found[exercise.number] = _entry(
                    answer, passed=verdict.passed, found_by=verdict.found_by, diagnosis=_printable(verdict.diagnosis)
                )
                if verdict.found_by == "limits" or sandbox.ended:
                    self._close(sandbox)
                    sandbox = None
        finally:
            if sandbox is not None:
                self._close(sandbox)
        return found

    def _sandbox(self, exercise: course.Exercise, clock: Clock) -> Sandbox:
        if self._stopping:
            raise KeyboardInterrupt
        box = Sandbox([exercise.check.split(".")[0]], self.limits, isolated=self.isolated, clock=clock)
        self._open.add(box)
        return box

    def _close(self, box: Sandbox) -> None:
        self._open.discard(box)
        box.close()

    def columns(self, records: list[dict]) -> list[str]:
        """The exercises that have a column: those of the wanted notebooks, else of all that somebody handed in."""
        numbers = {number.split(".")[0] for record in records for number in record["exercises"]}
        asked = [self.lessons[number] for number in sorted(self.wanted or numbers)]
        return [exercise.number for lesson in asked for exercise in lesson.exercises]

    def columns_before(self, hand_ins: list[HandIn]) -> list[str]:
        """The same, before anything is marked."""
        read = [] if self.wanted else map(self._numbers, hand_ins)
        return self.columns([{"exercises": [f"{number}." for number in numbers]} for numbers in read])

    def _numbers(self, hand_in: HandIn) -> list[str]:
        try:
            return list(self.read(hand_in, []))
        except Exception:  # its record will say so
            return []

    def _seed(self, check: Check) -> int:
        if self.settings.seed is not None:
            return self.settings.seed
        return check.first_seed


def _kept(path: Path) -> dict:
    """A record that an earlier run wrote; {} when there is none, or a damaged one."""
    try:
        kept = files.read_json(path)
    except CourseError:
        return {}
    return kept if isinstance(kept, dict) else {}


def _is_written(answer: answers.Answer) -> bool:
    tree = notebooks.parse(answer.parts[-1].source)[0]
    return not answers.is_stub(tree.body[answer.parts[-1].keep[-1]])


def _entry(answer: answers.Answer, **verdict) -> dict:
    return {
        **verdict,
        "notes": [_printable(one) for one in answer.notes],
        "look": [_printable(one) for one in answer.look],
    }


def _code() -> str:
    """A digest of the course's checks, so that records of an older course are made again."""
    told = hashlib.sha256()
    for room in ("lessons", "teaching", "classroom"):
        for path in sorted((places.PACKAGE / room).rglob("*.py")):
            told.update(path.read_bytes())
    return told.hexdigest()


# ---- what is written ----


def check_place(out: Path, columns: list[str] | None, students: list[str] | None = None) -> None:
    """Raise CourseError, before the work, where the marks would replace a file of somebody else, or marks of more.

    columns: the exercises that are asked for. students: those that are marked. None: all. An earlier
    call made the folder if it holds records.
    """
    there = [name for name in (TABLE, REPORT, FEEDBACK) if (out / name).exists()]
    if there and not (out / RECORDS).is_dir():
        raise CourseError(f"{out / there[0]} is not of `mlcourse grade`, and would be overwritten: take another --out")
    try:
        with open(out / TABLE, encoding="utf-8", newline="") as file:
            head, *rows = csv.reader(file)
    except (OSError, ValueError, csv.Error):  # none, or a damaged one
        return
    marked = {name for name in head if NUMBER.fullmatch(name)}
    if columns is not None and (lost := sorted(marked - set(columns))):
        raise CourseError(
            f"{out} holds marks of {len(lost)} exercises that are not asked for now, such as {lost[0]}: take another "
            "--out, or name their notebooks in --notebooks, too"
        )
    gone = {row[0] for row in rows if row} - {_cell(student) for student in students or ()}
    if students is not None and gone:
        raise CourseError(
            f"{out} holds marks of {len(gone)} who handed in nothing now, such as {min(gone)}: take another "
            "--out, or put their hand-ins back"
        )


def write(out: Path, records: list[dict], settings: Settings, columns: list[str]) -> None:
    """Write marks.csv, report.html, and feedback/STUDENT.html for each record; `columns` are the exercises."""
    rows = [_row(record, columns, settings) for record in records]
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["student", *columns, "total", "of", "late", "to be looked at", "remarks"])
    writer.writerows([[_cell(value) for value in row] for row in rows])
    for record, row in zip(records, rows):
        page = _page(f"Feedback: {record['student']}", _feedback(record, row, columns, settings.late))
        files.write_text(out / FEEDBACK / f"{file_name(record['student'])}.html", page)
    files.write_text(out / REPORT, _page("Report", _report(records, columns)))
    files.write_text(out / TABLE, table.getvalue())


def _row(record: dict, columns: list[str], settings: Settings) -> list:
    points = {
        number: settings.weights.get(number, 1) * record["exercises"].get(number, {}).get("passed", False)
        for number in columns
    }
    total = sum(points.values()) * (settings.late if record["late"] else 1)
    look = [number for number in columns if record["exercises"].get(number, {}).get("look")]
    of = sum(settings.weights.get(number, 1) for number in columns)
    remarks = len(record["notes"]) + sum(len(one["notes"]) for one in record["exercises"].values())
    said = f"{remarks} (see the feedback)" if remarks else ""
    late = "late" if record["late"] else ""
    return [record["student"], *(_short(points[number]) for number in columns), _short(total), _short(of), late,
            " ".join(look), said]  # fmt: skip


def _short(number: float) -> str:
    return f"{number:.6g}"


def _cell(value: str) -> str:
    """A text that no spreadsheet takes for a formula."""
    return f"'{value}" if str(value)[:1] in ("=", "+", "-", "@", "\t", "\r") else value


def file_name(student: str) -> str:
    """The name of a student as the name of a file: other signs become _, and a digest keeps names apart."""
    plain = re.sub(r"[^\w.-]", "_", student, flags=re.ASCII).strip(".")[:60]
    if plain == student and plain.casefold() == plain and plain:
        return plain
    return f"{plain or 'student'}-{hashlib.sha256(student.encode('utf-8', 'surrogateescape')).hexdigest()[:8]}"


def _feedback(record: dict, row: list, columns: list[str], factor: float) -> Iterator[str]:
    """The page of a student. Why a teacher should look at an answer stands in the report, and not here."""
    late = ""
    if record["late"]:
        late = " It came after the date" + (
            f": the points of what passed are multiplied by {_short(factor)}."
            if factor != 1
            else "; this takes no points."
        )
    yield f"<p>{row[len(columns) + 1]} of {row[len(columns) + 2]} points.{late}</p>"
    if record["notes"]:
        yield f"<h2>The files</h2><ul>{''.join(f'<li>{escape(note)}</li>' for note in record['notes'])}</ul>"
    for number in columns:
        if number not in record["exercises"]:
            yield f"<h2>{number}</h2><p>○ {_absent(record, number)}.</p>"
            continue
        one = record["exercises"][number]
        sign = "✓ Passed." if one["passed"] else f"○ Not yet. {_code_words(one['diagnosis'])}"
        yield f"<h2>{number}</h2><p>{sign}</p>"
        yield "".join(f"<p>{escape(note)}</p>" for note in one["notes"])


def _absent(record: dict, number: str) -> str:
    """Why a record has no verdict on an exercise."""
    if record.get("unmarked"):
        return "Not marked yet"
    unread = record.get("unread", [])
    if number.split(".")[0] in unread:
        return UNREAD
    return "Not found; one of the files could not be read" if "" in unread else "Not handed in"


def _report(records: list[dict], columns: list[str]) -> Iterator[str]:
    yield f"<p>{len(records)} hand-ins. Per exercise: how many passed, and the three most common diagnoses.</p>"
    for number in columns:
        entries = [record["exercises"].get(number) for record in records]
        there = [one for one in entries if one is not None]
        absent = Counter(_absent(record, number) for record, one in zip(records, entries) if one is None)
        passed = sum(one["passed"] for one in there)
        yield f"<h2>{number}: {passed} of {len(records)} passed</h2>"
        for why, missing in sorted(absent.items()):
            yield f"<p>{missing} {'did not hand it in' if why == 'Not handed in' else f'– {why.lower()}'}.</p>"
        said = [one["diagnosis"] for one in there if not one["passed"]]
        common = Counter(_without_numbers(one) for one in said).most_common()
        common.sort(key=lambda pair: (-pair[1], pair[0]))
        first = {_without_numbers(one): one for one in reversed(said)}
        items = "".join(f"<li>{count} × {_code_words(first[cause])}</li>" for cause, count in common[:3])
        yield f"<ol>{items}</ol>" if items else ""
        look = [record["student"] for record, one in zip(records, entries) if one and one["look"]]
        if look:
            reasons = [
                f"<li>{escape(student)}: {escape(' '.join(one['look']))}</li>"
                for student, one in ((record["student"], record["exercises"][number]) for record in records
                                     if number in record["exercises"])
                if one["look"]
            ]  # fmt: skip
            yield f"<p>To be looked at:</p><ul>{''.join(reasons)}</ul>"
    noted = [record for record in records if record["notes"]]
    if noted:
        yield "<h2>Files with something wrong</h2><ul>"
        yield "".join(f"<li>{escape(one['student'])}: {escape(' '.join(one['notes']))}</li>" for one in noted)
        yield "</ul>"


def _without_numbers(diagnosis: str) -> str:
    return re.sub(r"[-+−]?\d[\d.,]*(e[-+]?\d+)?", "#", diagnosis)


def _code_words(text: str) -> str:
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))


def _page(title: str, parts: Iterator[str]) -> str:
    body = "\n".join(parts)
    style = "body{font-family:sans-serif;max-width:50em;margin:2em auto;padding:0 1em;line-height:1.5}"
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{style}</style></head>\n<body><h1>{escape(title)}</h1>\n{body}\n</body></html>\n"
    )
