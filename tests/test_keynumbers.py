"""The ledger: judged where it should be, merged, never silent about an unknown number."""

from __future__ import annotations

import json
import math

import pytest

from labutils import keynumbers, parameters, report
from labutils.estimates import Estimate
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


def test_the_report_is_one_self_contained_page(scope, tmp_path):
    from labutils import plots

    run = keynumbers.start("problem2_vae", scope)
    run.record("p2.elbo.valid", Estimate(-99.0, 0.2, 10_000))
    figure, ax = plots.figure(3.0, 2.0)
    ax.plot([0, 1])
    run.show(figure, "line", "A line with <angle> brackets.")
    run.save()
    page = report.write(tmp_path / "out").read_text(encoding="utf-8")
    assert "FAIL" in page and "−99.00 ± 0.20" in page and "five seeds" in page
    assert "A line with &lt;angle&gt; brackets." in page and "data:image/png;base64," in page
    assert 'src="http' not in page and "<script" not in page and str(tmp_path) not in page


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
