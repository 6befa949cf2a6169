"""The ledger: judged where it should be, merged, never silent about an unknown number."""

from __future__ import annotations

import errno
import json
import math
import shutil
import subprocess
import sys
import threading

import pytest
import torch

from labutils import keynumbers, parameters, training
from labutils.commands import report
from labutils.estimates import Estimate
from labutils.keynumbers import Erratum
from labutils.parameters import ParameterError

BANDS = {
    "p2.elbo.valid": {"title": "ELBO", "unit": "nats", "report": -93.58,
                      "cpu": {"low": -95.0, "high": -90.0, "reason": "five seeds"}},
    "p2.new": {"title": "new", "unit": "nats"},
}  # fmt: skip


@pytest.fixture
def scope(monkeypatch, tmp_path):
    """What a notebook's globals hold after its parameters cell, on the cpu profile."""
    monkeypatch.setattr(keynumbers, "bands", lambda: BANDS)
    known = parameters.contract(parameters.notebooks()[2])
    return {name: p.default for name, p in known.items()} | {"out_dir": str(tmp_path / "out"), "device": "cpu"}


@pytest.mark.parametrize(
    ("value", "passed"),
    [(-92.0, True), (-95.0, True), (-95.01, False), (-89.9, False), (math.nan, False), (math.inf, False)],
)
def test_a_band_judges(scope, value, passed):
    number = keynumbers.start("problem2_vae", scope).record("p2.elbo.valid", value, stderr=0.2, n=10)
    assert (number.judged, number.passed, number.reason) == (True, passed, "five seeds")


def test_seed_and_place_may_change_other_parameters_not(scope):
    assert keynumbers.start("problem2_vae", scope | {"seed": 7}).judged
    changed = keynumbers.start("problem2_vae", scope | {"epochs": 3})
    number = changed.record("p2.elbo.valid", -200.0)
    assert (number.judged, number.passed, number.reason) == (False, None, "parameters differ from the profile")


def test_no_band_no_judgement(scope):
    number = keynumbers.start("problem2_vae", scope).record("p2.new", Estimate(1.0, 0.1, 5))
    assert (number.judged, number.passed, number.stderr, number.n) == (False, None, 0.1, 5)


def test_a_number_without_title_and_unit_is_refused(scope):
    with pytest.raises(KeyError, match=r"p2\.unknown"):
        keynumbers.start("problem2_vae", scope).record("p2.unknown", 1.0)


def test_wrong_parameters_stop_the_notebook(scope):
    with pytest.raises(ParameterError, match="epochs is '8'"):
        keynumbers.start("problem2_vae", scope | {"epochs": "8"})


def test_the_ledger_is_the_documented_file_and_merges(scope, capsys, tmp_path):
    run = keynumbers.start("problem2_vae", scope)
    run.record("p2.elbo.valid", Estimate(-94.0, 0.2, 10_000))
    run.verdicts()
    assert capsys.readouterr().out.splitlines()[-1] == "PASS p2.elbo.valid"
    file = tmp_path / "out" / "key_numbers.json"
    ledger = json.loads(file.read_text())
    assert {"profile", "seed", "device", "versions", "seconds", "numbers"} <= set(ledger)
    expected = {"id": "p2.elbo.valid", "value": -94.0, "stderr": 0.2, "unit": "nats", "low": -95.0, "high": -90.0,
                "report": -93.58, "n": 10_000, "judged": True, "passed": True, "reason": "five seeds"}  # fmt: skip
    assert expected.items() <= ledger["numbers"][0].items()

    other = keynumbers.Run("problem9_other", scope, judged=True)
    other.record("p2.new", 2.0)
    other.save()
    run.record("p2.elbo.valid", -93.0)
    run.save()
    merged = json.loads(file.read_text())
    assert {(n["id"], n["value"]) for n in merged["numbers"]} == {("p2.elbo.valid", -93.0), ("p2.new", 2.0)}
    assert set(merged["seconds"]) == {"problem2", "problem9"}


def test_two_notebooks_that_end_at_the_same_moment_both_stay_in_the_ledger(scope, tmp_path):
    """The second waits while the first reads, changes and writes the file; so do the captions of the figures."""
    from labutils import plots

    one, other = (keynumbers.Run(name, scope, judged=True) for name in ("problem2_vae", "problem9_other"))
    one.record("p2.elbo.valid", -93.0)
    other.record("p2.new", 2.0)
    one.save()
    file, captions = tmp_path / "out" / "key_numbers.json", tmp_path / "out" / "figures" / "captions.json"
    captions.parent.mkdir()
    figure, _ = plots.figure(3.0, 2.0)
    shown = (figure, captions.parent, "problem9-line", "A line.")
    waiting = [threading.Thread(target=other.save), threading.Thread(target=plots.show, args=shown)]
    with training.locked(file), training.locked(captions):
        for thread in waiting:
            thread.start()
        waiting[0].join(0.5)
        waiting[1].join(2.0)  # it draws first
        assert all(thread.is_alive() for thread in waiting)
        changed = json.loads(file.read_text())
        changed["numbers"][0]["value"] = -91.0
        file.write_text(json.dumps(changed))
        captions.write_text('{"problem2-line": "Another."}')
    for thread in waiting:
        thread.join()
    values = {(n["id"], n["value"]) for n in json.loads(file.read_text())["numbers"]}
    assert values == {("p2.elbo.valid", -91.0), ("p2.new", 2.0)}
    assert json.loads(captions.read_text()) == {"problem2-line": "Another.", "problem9-line": "A line."}


@pytest.mark.parametrize("error", [OSError(errno.ENOLCK, "No locks available"), NotImplementedError("flock")])
def test_a_file_system_without_locks_is_no_obstacle(tmp_path, monkeypatch, error):
    def acquire(lock, timeout=None):
        raise error

    monkeypatch.setattr(training.FileLock, "acquire", acquire)
    with training.locked(tmp_path / "file"):
        pass
    error = OSError(errno.EACCES, "Permission denied")
    with pytest.raises(OSError, match="Permission denied"), training.locked(tmp_path / "file"):
        pass


def test_a_mended_answer_never_goes_on_from_what_a_wrong_one_has_trained(scope, tmp_path):
    run = keynumbers.start("problem2_vae", scope)

    def answer(x, factor=1):
        return factor * x

    right = answer

    def answer(x, factor=1):  # as in a cell that is executed again
        return factor + x

    space = [{}, {}, {}]  # code that no file holds
    for names, number in zip(space, (1, 2, 1), strict=True):
        exec(f"def f(x): return max(k + {number} for k in x)", names)
    files = [run.checkpoint("vae", f) for f in (right, answer, *(names["f"] for names in space))]
    assert files[2] == files[4] and len(set(files)) == 4
    assert run.checkpoint("vae", right) == files[0] != run.checkpoint("vae", right, answer)
    assert run.checkpoint("vae") == tmp_path / "out" / "checkpoints" / "problem2_vae-vae.pt"
    assert all(file.name.startswith("problem2_vae-vae-") for file in files)


def test_without_out_dir_nothing_is_left_behind(scope):
    run = keynumbers.start("problem2_vae", scope | {"out_dir": ""})
    run.save()
    assert "labutils-" in str(run.out_dir)


def test_the_table_shows_error_band_and_the_reports_value(scope):
    run = keynumbers.start("problem2_vae", scope)
    run.record("p2.elbo.valid", Estimate(-94.0312, 0.2211, 10_000))
    text = repr(run.table())
    for part in ("ELBO [nats]", "−94.03 ± 0.22", "10,000", "−95 to −90", "−93.58", "PASS"):
        assert part in text
    assert "<td" in run.table()._repr_html_()


@pytest.mark.parametrize(
    ("value", "stderr", "text"),
    [(5832.4, 38.0, "5,832 ± 38"), (-0.00061, 0.00053, "−0.00061 ± 0.00053"), (29526.3, None, "29,526"),
     (1.0, 0.0, "1"), (math.nan, 0.2, "nan ± 0.20"), (-math.inf, None, "−∞"), (3.5e-5, None, "3.5e−05"),
     (2.0, math.inf, "2")],
)  # fmt: skip
def test_a_value_is_shown_to_the_digits_of_its_error(scope, value, stderr, text):
    number = keynumbers.start("problem2_vae", scope).record("p2.new", value, stderr=stderr)
    assert keynumbers.with_error(number) == text


def test_shown_figures_are_kept_with_their_captions_for_the_report(scope, tmp_path):
    from labutils import plots

    run = keynumbers.start("problem2_vae", scope)
    figure, ax = plots.figure(3.0, 2.0)
    ax.plot([0, 1])
    run.show(figure, "line", "A line with <angle> brackets.")
    run.save()
    page = report.write(tmp_path / "out").read_text(encoding="utf-8")
    assert "A line with &lt;angle&gt; brackets." in page and "data:image/png;base64," in page
    assert str(tmp_path) not in page


def test_errata_are_shown_and_kept(scope, tmp_path):
    run = keynumbers.start("problem2_vae", scope)
    rows = [Erratum("log <sigmoid>", torch.tensor(-math.inf), -120.0, "nats"), Erratum("wrong axis", math.nan, None)]
    table = run.errata(rows)
    lines = [line.split("  ") for line in repr(table).splitlines()]
    assert [cell.strip() for cell in lines[0] if cell] == ["the mistake", "gives", "right", "unit"]
    assert [cell.strip() for cell in lines[2] if cell] == ["log <sigmoid>", "−∞", "−120", "nats"]
    assert "log &lt;sigmoid&gt;" in table._repr_html_() and "<td" in table._repr_html_()
    run.errata([Erratum("wrong axis", 7.0, 1.0)])  # the cell run again after a change
    run.save()

    other = keynumbers.Run("problem1_other", scope, judged=True)
    other.errata([Erratum("another", 1.0, 2.0)])
    other.save()
    run.save()
    ledger = keynumbers.read(tmp_path / "out" / "key_numbers.json")
    assert ledger["errata"] == [
        {"notebook": "problem1_other", "mistake": "another", "value": 1.0, "right": 2.0, "unit": ""},
        {"notebook": "problem2_vae", "mistake": "log <sigmoid>", "value": -math.inf, "right": -120.0, "unit": "nats"},
        {"notebook": "problem2_vae", "mistake": "wrong axis", "value": 7.0, "right": 1.0, "unit": ""},
    ]  # fmt: skip


def test_the_ledger_is_standard_json_even_with_nan(scope, tmp_path):
    run = keynumbers.start("problem2_vae", scope)
    run.record("p2.elbo.valid", math.nan, stderr=math.inf, n=3)
    run.errata([Erratum("m", math.inf, math.nan)])
    run.save()
    run.save()
    file = tmp_path / "out" / "key_numbers.json"

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    json.loads(file.read_text(), parse_constant=refuse)
    ledger = keynumbers.read(file)
    number = keynumbers.KeyNumber(**ledger["numbers"][0])
    assert math.isnan(number.value) and number.stderr == math.inf and number.passed is False
    assert ledger["errata"][0]["value"] == math.inf and math.isnan(ledger["errata"][0]["right"])
    assert "nan" in repr(keynumbers.Table([number]))


def test_a_run_says_what_it_ran_on_and_cost(scope, tmp_path, monkeypatch):
    from conftest import ROOT

    run = keynumbers.start("problem2_vae", scope)
    run.save()
    ledger = keynumbers.read(tmp_path / "out" / "key_numbers.json")
    assert ledger["hardware"] == keynumbers.processor() and ledger["hardware"].split()[-1].startswith("core")
    assert int(ledger["hardware"].split()[-2]) >= 1
    assert 50 < ledger["memory_mib"]["problem2"] < 200_000 and "cuda_memory_mib" not in ledger
    if (ROOT / ".git").exists() and ledger["commit"]:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
        assert ledger["commit"].rstrip("+") == head

    monkeypatch.setitem(sys.modules, "resource", None)  # Windows
    other = keynumbers.Run("problem1_other", scope, judged=True)
    other.save()
    assert keynumbers.read(tmp_path / "out" / "key_numbers.json")["memory_mib"]["problem1"] is None


@pytest.mark.skipif(shutil.which("git") is None, reason="no git")
def test_commit_marks_changes_and_is_empty_without_a_clone(tmp_path, monkeypatch):
    module = tmp_path / "clone" / "labutils" / "keynumbers.py"
    module.parent.mkdir(parents=True)
    module.write_text("one")
    monkeypatch.setattr(keynumbers, "__file__", str(module))
    assert keynumbers.commit() == ""

    def git(*arguments):
        identity = ["-c", "user.name=n", "-c", "user.email=e@x"]
        return subprocess.run(["git", *identity, *arguments], cwd=tmp_path / "clone", capture_output=True, text=True)

    git("init")
    assert keynumbers.commit() == "", "nothing is committed"
    git("add", ".")
    git("commit", "-m", "one")
    head = git("rev-parse", "HEAD").stdout.strip()
    assert len(head) == 40 and keynumbers.commit() == head
    (tmp_path / "clone" / "untracked").touch()
    assert keynumbers.commit() == head
    module.write_text("two")
    assert keynumbers.commit() == head + "+"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert keynumbers.commit() == "", "no git, no error"


def test_full_runs_stand_beside_this_one(scope, monkeypatch, tmp_path):
    monkeypatch.setattr(keynumbers, "FULL_RUN", tmp_path / "none.json")
    assert keynumbers.full_run() == {}
    run = keynumbers.start("problem2_vae", scope)
    full = run.record("p2.elbo.valid", Estimate(-91.3123, 0.0512, 10_000))
    run.save()
    monkeypatch.setattr(keynumbers, "FULL_RUN", tmp_path / "out" / "key_numbers.json")
    assert keynumbers.full_run() == {"p2.elbo.valid": full}

    here = run.record("p2.elbo.valid", Estimate(-94.0, 0.2, 10_000)), run.record("p2.new", 3.0)
    table = keynumbers.Table(list(here), {"p2.elbo.valid": full, "p2.other": full})
    assert table.header == ("quantity", "this run", "n", "full run", "truth or band", "the report", "")
    assert [row[3] for row in table.rows()] == ["−91.312 ± 0.051", ""]
    lines = repr(table).splitlines()
    starts = [line.find(text) for line, text in ((lines[0], "full run"), (lines[2], "−91.312"))]
    assert starts[0] == starts[1] > 0, "columns line up"
    assert "full run" not in keynumbers.Table(list(here), {}).header
    assert "full run" not in keynumbers.Table([here[1]], {"p2.elbo.valid": full}).header
    assert "−91.312" in repr(run.table()), "the package's file"


def test_bands_file_is_complete():
    for id, entry in keynumbers.bands().items():
        assert entry["title"] and entry["unit"], id
        for profile in parameters.PROFILES:
            band = entry.get(profile)
            if band:
                assert len(band["reason"]) > 20, f"{id}: a band needs its reason"
                assert "low" in band or "high" in band, id
                assert band.get("low", -math.inf) < band.get("high", math.inf), id
                assert profile != "smoke", "smoke numbers are not judged"
