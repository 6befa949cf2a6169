"""What is published belongs together, and publishing changes all of it or nothing."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from conftest import ROOT

from labutils import keynumbers
from labutils.commands import cli, publish
from labutils.commands.publish import BEGIN, END, PublishError

README = f"# A lab\n\n{BEGIN}\nNothing yet.\n\n{END}\n\nThe rest.\n"


def faults(clone):
    """What is wrong with a clone's published state; empty when all of it belongs together."""
    figures = clone / "figures"
    manifest = json.loads((figures / "manifest.json").read_text(encoding="utf-8"))
    listed = {entry["file"]: entry["sha256"] for entry in manifest["figures"]}
    there = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in figures.glob("*.png")}
    found = [f"{name} has no manifest entry" for name in there.keys() - listed.keys()]
    found += [f"{name} is listed and not there" for name in listed.keys() - there.keys()]
    found += [f"{name} is another picture" for name in there.keys() & listed.keys() if there[name] != listed[name]]
    ledger = (figures / keynumbers.LEDGER).read_bytes()
    if ledger != (clone / publish.FULL_RUN).read_bytes():
        found.append("the package carries other numbers than figures/")
    readme = (clone / "README.md").read_text(encoding="utf-8")
    if readme != publish.with_results(readme, publish.results(json.loads(ledger), manifest)):
        found.append("the README shows other numbers than figures/")
    pictures = re.findall(r"!\[[^\]]*\]\((figures/[^)]*)\)", readme)
    return found + [f"{name}, named in the README, is missing" for name in pictures if not (clone / name).exists()]


def test_what_is_published_belongs_together():
    if not (ROOT / "figures" / "manifest.json").exists():
        assert not list((ROOT / "figures").glob("*.png")), "pictures without a manifest"
        assert not (ROOT / publish.FULL_RUN).exists(), "numbers of a run that figures/ does not show"
        pytest.skip("no full run published yet")
    assert faults(ROOT) == []
    manifest = (ROOT / "figures" / "manifest.json").read_text(encoding="utf-8")
    ledger = (ROOT / publish.FULL_RUN).read_text(encoding="utf-8")
    assert not re.search(r"/(home|Users|root|tmp|work|mnt)/\w", manifest + ledger), "a machine's folder"


def test_the_readme_can_be_published_into():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert publish.with_results(readme, "table\n").count("table\n") == readme.count("table\n") + 1
    known = keynumbers.bands()
    assert [id for id in publish.ROWS if id not in known] == []


@pytest.fixture
def clone(tmp_path):
    folder = tmp_path / "clone"
    (folder / "labutils").mkdir(parents=True)
    (folder / "labutils" / "bands.yaml").write_text("{}")
    (folder / "figures").mkdir()
    (folder / "README.md").write_text(README, encoding="utf-8")
    return folder


@pytest.fixture
def run(clone, toy_notebook, tmp_path):
    """A function that makes the folder of a finished run with one notebook, and that notebook in the clone."""

    def make(problem=2, figures=("curves", "samples"), content="", folder=None, epochs=3, **ledger):
        name = f"problem{problem}_toy"
        notebook = toy_notebook(parameters="epochs: int = 20  # passes over the set [1 to 99]\n", name=name)
        (clone / "notebooks").mkdir(exist_ok=True)
        shutil.copy(notebook, clone / "notebooks")
        folder = folder or tmp_path / f"run{problem}"
        (folder / "figures").mkdir(parents=True)
        names = {f"problem{problem}-{figure}": f"Caption of {figure}." for figure in figures}
        for figure in names:
            (folder / "figures" / f"{figure}.png").write_bytes(f"PNG {figure} {content}".encode())
        number = {"value": -94.0312, "stderr": 0.2211, "unit": "nats/image", "low": None, "high": None, "truth": None,
                  "report": -93.58, "n": 100, "judged": False, "passed": None, "reason": "", "title": "ELBO",
                  "id": "p2.elbo.valid" if problem == 2 else "p1.jsd.f1_f0", "notebook": name}  # fmt: skip
        ledger = {"profile": "gpu", "seed": 0, "device": "cpu", "threads": 2, "versions": {"torch": "2.9"},
                  "data": {"svhn": {"sha256": "ab", "source": "from /home/me/x, for non-commercial use"}},
                  "parameters": {name: {"epochs": epochs}}, "seconds": {f"problem{problem}": 90.0},
                  "numbers": [number]} | ledger  # fmt: skip
        parameters = {"profile": "gpu", "seed": 0, "out_dir": "/home/me", "epochs": epochs}
        state = {"notebooks": {name: {"state": "finished", "parameters": parameters, "code": "c0de"}}}
        for file, value in [("key_numbers.json", ledger), ("run.json", state), ("figures/captions.json", names)]:
            (folder / file).write_text(json.dumps(value))
        return folder

    return make


def tree(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_run_is_published(clone, run):
    said = "\n".join(publish.publish([run()], clone))
    assert faults(clone) == []
    assert "2 pictures" in said and "an installed package now shows these 1 numbers" in said
    readme = (clone / "README.md").read_text(encoding="utf-8")
    assert "| VAE, ELBO, validation [nats/image] | −94.03 ± 0.22 |  | −93.58 |" in readme
    assert "Profile `gpu`, seed 0. Problem 2: 1.5 minutes on cpu, 2 threads, with `epochs` 3 in place of 20." in readme
    assert readme.startswith("# A lab\n") and readme.endswith(f"{END}\n\nThe rest.\n") and "Nothing yet" not in readme
    manifest = json.loads((clone / "figures" / "manifest.json").read_text())
    about = manifest["notebooks"]["problem2_toy"]
    assert (about["parameters"], about["changed"]) == ({"epochs": 3}, {"epochs": [20, 3]})
    assert (about["seconds"], about["memory_mib"], about["versions"]) == (90.0, None, {"torch": "2.9"})
    assert manifest["figures"][0]["caption"] == "Caption of curves."
    written = b"".join(tree(clone / "figures").values()) + (clone / publish.FULL_RUN).read_bytes()
    assert b"/home/me" not in written and b"from files in data_dir, for non-commercial use" in written


def test_what_a_new_ledger_says_of_its_machine_is_kept(clone, run):
    erratum = {"notebook": "problem2_toy", "mistake": "x", "value": "nan", "right": 1.0}
    more = {"hardware": "A processor, 2 cores", "commit": "abc", "memory_mib": {"problem2": 700}, "errata": [erratum]}
    publish.publish([run(epochs=20, **more)], clone)
    about = json.loads((clone / "figures" / "manifest.json").read_text())["notebooks"]["problem2_toy"]
    assert (about["hardware"], about["commit"], about["memory_mib"]) == ("A processor, 2 cores", "abc", 700)
    assert json.loads((clone / publish.FULL_RUN).read_text())["errata"] == [erratum]
    assert "Problem 2: 1.5 minutes on A processor, 2 cores, 2 threads." in (clone / "README.md").read_text()


def test_a_number_that_is_none_is_shown_as_it_is(clone, run):
    folder = run()
    numbers = json.loads((folder / "key_numbers.json").read_text())["numbers"]
    edit(folder / "key_numbers.json", numbers=[numbers[0] | {"value": "nan", "stderr": "nan"}])
    publish.publish([folder], clone)
    assert "| VAE, ELBO, validation [nats/image] | nan |  | −93.58 |" in (clone / "README.md").read_text()


@pytest.mark.parametrize(
    ("file", "change", "fault"),
    [
        ("figures/mine.png", lambda _: b"PNG", "mine.png has no manifest entry"),
        ("figures/problem2-curves.png", lambda _: None, "problem2-curves.png is listed and not there"),
        ("figures/problem2-curves.png", lambda old: old + b"x", "problem2-curves.png is another picture"),
        (publish.FULL_RUN, lambda old: old.replace(b"-94.0", b"-84.0"), "the package carries other numbers"),
        ("README.md", lambda old: old.replace("−94.03".encode(), "−84.03".encode()), "the README shows other numbers"),
        ("README.md", lambda old: old + b"![x](figures/none.png)", "figures/none.png, named in the README, is missing"),
    ],
)
def test_every_fault_is_found(clone, run, file, change, fault):
    publish.publish([run()], clone)
    changed = change((clone / file).read_bytes() if (clone / file).exists() else b"")
    (clone / file).unlink(missing_ok=True)
    if changed is not None:
        (clone / file).write_bytes(changed)
    assert len(faults(clone)) == 1 and faults(clone)[0].startswith(fault)


def test_a_new_run_replaces_the_old_and_nothing_else(clone, run, tmp_path):
    publish.publish([run()], clone)
    (clone / "figures" / "notes.txt").write_text("mine")
    with open(clone / "README.md", "a") as readme:
        readme.write("![curves](figures/problem2-curves.png)")
    said = "\n".join(publish.publish([run(figures=["samples", "codes"], content="2", folder=tmp_path / "new")], clone))
    assert faults(clone) == ["figures/problem2-curves.png, named in the README, is missing"]
    assert "README.md names figures/problem2-curves.png, which these runs did not make" in said
    assert sorted(p.name for p in (clone / "figures").glob("*.png")) == ["problem2-codes.png", "problem2-samples.png"]
    assert "problem2-curves.png: removed" in said and "notes.txt: left alone" in said
    assert (clone / "figures" / "notes.txt").read_text() == "mine"


def test_notebooks_run_apart_are_published_together(clone, run):
    folders = [run(2), run(1, device="NVIDIA H200", hardware="Another", versions={"torch": "2.8"})]
    publish.publish(folders, clone)
    assert faults(clone) == []
    ledger = json.loads((clone / publish.FULL_RUN).read_text())
    assert {n["notebook"] for n in ledger["numbers"]} == {"problem1_toy", "problem2_toy"}
    assert ledger["seconds"] == {"problem2": 90.0, "problem1": 90.0}
    assert (ledger["device"], ledger["versions"]["torch"], ledger["threads"]) == ("cpu / NVIDIA H200", "2.9 / 2.8", 2)
    manifest = json.loads((clone / "figures" / "manifest.json").read_text())
    devices = {name: about["device"] for name, about in manifest["notebooks"].items()}
    assert devices == {"problem1_toy": "NVIDIA H200", "problem2_toy": "cpu"}
    assert "Problem 1: 1.5 minutes on NVIDIA H200, with" in (clone / "README.md").read_text()
    assert [n["notebook"] for n in ledger["numbers"]] == ["problem1_toy", "problem2_toy"]
    assert [e["notebook"] for e in manifest["figures"]] == ["problem1_toy"] * 2 + ["problem2_toy"] * 2


def edit(file, **changes):
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda r, c: (r / "run.json").unlink(), r"is no finished run: it has no run\.json"),
        (lambda r, c: (r / "key_numbers.json").unlink(), r"it has no key_numbers\.json"),
        (lambda r, c: (r / "key_numbers.json").write_text("{half"), r"key_numbers\.json is damaged"),
        (lambda r, c: (r / "run.json").write_bytes(b"\xff"), r"run\.json is damaged"),
        (lambda r, c: (c / "figures/manifest.json").write_text("{half"), r"manifest\.json is damaged"),
        (lambda r, c: (c / "figures/manifest.json").write_text("[]"), r"manifest\.json is damaged"),
        (
            lambda r, c: edit(r / "run.json", notebooks={"problem2_toy": {"state": "running"}}),
            "problem2_toy is running",
        ),
        (lambda r, c: edit(r / "key_numbers.json", numbers=[]), "has no key numbers"),
        (lambda r, c: (r / "figures/problem2-curves.png").unlink(), "problem2-curves.png is missing"),
        (lambda r, c: edit(r / "figures/captions.json", **{"problem9-x": "?"}), "problem9-x.png is missing"),
        (lambda r, c: (c / "notebooks/problem2_toy.ipynb").unlink(), "has no such notebook"),
        (lambda r, c: (c / "README.md").write_text("no marks"), "must have the lines"),
        (lambda r, c: (c / "README.md").write_text(README + END), "once each"),
        (lambda r, c: (c / "README.md").unlink(), r"has no README\.md"),
        (lambda r, c: (c / "figures/problem2-samples.png").write_text("mine"), "problem2-samples.png is not a picture"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_written(clone, run, damage, message):
    folder = run()
    damage(folder, clone)
    before = tree(clone)
    with pytest.raises(PublishError, match=message):
        publish.publish([folder], clone)
    assert tree(clone) == before


def test_a_clone_that_cannot_be_written_is_one_clear_line(clone, run):
    (clone / "figures").rmdir()
    (clone / "figures").write_text("a file")
    done = CliRunner().invoke(cli.main, ["publish", str(run()), "--into", str(clone)])
    assert done.exit_code == 2 and f"{clone / 'figures'}: File exists" in done.output, done.output


def test_runs_that_do_not_belong_together_are_refused(clone, run, tmp_path):
    folders = [run(2), run(1, seed=1)]
    with pytest.raises(PublishError, match=r"differ in their seed: 0 \(.*run2\), 1"):
        publish.publish(folders, clone)
    with pytest.raises(PublishError, match=r"problem2_toy is in .* give each notebook once"):
        publish.publish([folders[0], folders[0]], clone)
    edit(folders[0] / "figures" / "captions.json", **{"problem3-x": "?"})
    (folders[0] / "figures" / "problem3-x.png").write_bytes(b"PNG")
    with pytest.raises(PublishError, match="problem3-x belongs to none of its notebooks"):
        publish.publish([folders[0]], clone)


def test_a_picture_changed_by_hand_is_not_removed(clone, run, tmp_path):
    publish.publish([run()], clone)
    new = run(figures=["codes"], folder=tmp_path / "new")
    (clone / "figures" / "problem2-curves.png").write_text("retouched")
    before = tree(clone)
    with pytest.raises(PublishError, match=r"problem2-curves\.png is not a picture as it was published; move it away"):
        publish.publish([new], clone)
    assert tree(clone) == before


def test_a_full_disk_changes_nothing_and_an_interruption_is_completed(clone, run, tmp_path, monkeypatch):
    publish.publish([run()], clone)
    new, before = run(figures=["samples", "codes"], content="2", folder=tmp_path / "new"), tree(clone)
    write, count = Path.write_bytes, []

    def full(path, content):
        count.append(path)
        if len(count) == 4:
            raise OSError("No space left on device")
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space"):
        publish.publish([new], clone)
    assert tree(clone) == before, "nor is a part left behind"
    monkeypatch.undo()

    replace = os.replace

    def cut(source, target):
        if Path(target).name == "README.md":
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", cut)
    with pytest.raises(KeyboardInterrupt):
        publish.publish([new], clone)
    assert faults(clone), "the interruption came in the middle"
    monkeypatch.undo()
    publish.publish([new], clone)
    assert faults(clone) == []


def test_the_command_finds_its_clone_and_says_what_a_reader_must_know(clone, run, tmp_path, monkeypatch):
    folder = run(content="x" * 1_100_000)
    ledger = json.loads((folder / "key_numbers.json").read_text())
    ledger["numbers"][0] |= {"judged": True, "passed": False}
    (folder / "key_numbers.json").write_text(json.dumps(ledger))
    monkeypatch.chdir(clone / "notebooks")
    done = CliRunner().invoke(cli.main, ["publish", str(folder)])
    assert done.exit_code == 0 and faults(clone) == [], done.output
    assert "problem2-curves.png: 1.1 MB" in done.output and "p2.elbo.valid lies outside its band" in done.output
    assert "−94.03 ± 0.22 (outside its band)" in (clone / "README.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(cli.main, ["publish", str(folder)])
    assert done.exit_code == 2 and "no clone of the bundle around" in done.output
    assert CliRunner().invoke(cli.main, ["publish", str(folder), "--into", str(clone)]).exit_code == 0
    assert CliRunner().invoke(cli.main, ["publish", str(clone)]).exit_code == 2
    assert CliRunner().invoke(cli.main, ["publish"]).exit_code == 2
