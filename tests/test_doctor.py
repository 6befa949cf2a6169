"""`labutils doctor` finds what is damaged or missing, and never falls ill itself."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version

import pytest
import torch
from conftest import ROOT

from labutils import data, parameters, reference
from labutils.commands import doctor


def bad():
    """Subject → finding, of what is not good; what this machine itself lacks left out."""
    known = {"threads", *doctor.EXTRAS}
    return {subject: finding for good, subject, finding in doctor.lines() if not good and subject not in known}


@pytest.fixture(autouse=True)
def a_data_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("LABUTILS_DATA", str(tmp_path / "data"))
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def test_a_healthy_clone_has_no_findings():
    assert bad() == {}


def test_a_library_that_is_not_there_is_a_finding_and_all_else_is_said(a_data_folder):
    """In a process of its own: the lab's modules import Matplotlib, the doctor must not."""
    code = "import sys; sys.modules['matplotlib'] = None; from labutils.commands import cli; cli.main(['doctor'])"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "pip install --force-reinstall matplotlib" in done.stdout
    assert "ok       torch" in done.stdout and "ok       free disk" in done.stdout


def test_a_library_that_was_never_installed_is_to_be_installed(monkeypatch):
    def without_scipy(name):
        if name == "scipy":
            raise PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(doctor, "version", without_scipy)
    assert bad() == {"scipy": "not installed: pip install scipy"}


def test_requirements_are_met_by_other_spellings_of_their_names(monkeypatch):
    monkeypatch.setattr(doctor, "requires", lambda _: ["pyyaml>=6.0", "no-such>=1", "pytest>=8; extra == 'test'"])
    assert bad() == {"no-such": "not installed: pip install no-such"}


def test_without_a_home_folder(no_home):
    assert "set LABUTILS_DATA" in bad()["data folder"]


@pytest.mark.parametrize("content", ["<html>", "", '{"cells": []}'])
def test_a_damaged_notebook_is_found(content, tmp_path, monkeypatch):
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks")
    (tmp_path / "notebooks" / "problem2_vae.ipynb").write_text(content)
    monkeypatch.setattr(parameters, "notebooks_folder", lambda: tmp_path / "notebooks")
    assert "problem2_vae.ipynb" in bad()["notebooks"]


@pytest.mark.parametrize("name", ["svhn_gan.safetensors", "manifest.json"])
@pytest.mark.parametrize("content", [None, b"", b"<html>"])
def test_a_damaged_reference_model_is_found(name, content, tmp_path, monkeypatch):
    assets = tmp_path / "assets"
    assets.mkdir()
    for file in (name, "manifest.json"):
        shutil.copy(reference.ASSETS / file, assets)
    if content is None:
        (assets / name).unlink()
    else:
        (assets / name).write_bytes(content)
    monkeypatch.setattr(reference, "manifest", lambda folder, read=reference.manifest: {
        k: v for k, v in read(folder).items() if k == "svhn_gan"})  # fmt: skip
    monkeypatch.setattr(reference, "ASSETS", assets)
    finding = bad()["reference models"]
    assert (name in finding or "svhn_gan" in finding) and ("reinstall" in finding or "damaged" in finding)


def test_a_damaged_embedded_set_is_found(tmp_path, monkeypatch):
    (tmp_path / "bits.xz").write_bytes(data.EMBEDDED.read_bytes()[:-9])
    monkeypatch.setattr(data, "EMBEDDED", tmp_path / "bits.xz")
    assert "bits.xz is damaged" in bad()["binarized-mnist"]


def test_damaged_data_files_are_found_and_missing_ones_are_not_fetched(a_data_folder, monkeypatch):
    monkeypatch.setattr(data, "download", None)
    names = [*data.LAROCHELLE_SHA256, "train_32x32.mat", "test_32x32.mat"]
    for name in names[:-1]:
        (a_data_folder / name).write_text("<html>")
    found = bad()
    assert "binarized_mnist_train.amat, line 1" in found.pop("larochelle") and found == {}
    (a_data_folder / names[-1]).write_text("<html>")
    assert "train_32x32.mat cannot be read" in bad()["svhn"]


def test_a_data_folder_that_is_none_is_found(a_data_folder):
    a_data_folder.rmdir()
    a_data_folder.touch()
    assert "set LABUTILS_DATA" in bad()["data folder"]


def test_whatever_breaks_is_one_line(monkeypatch):
    def broken(*_):
        raise RuntimeError("driver\ntoo old")

    monkeypatch.setattr(torch.cuda, "is_available", broken)
    monkeypatch.setattr(shutil, "disk_usage", broken)
    assert bad() == dict.fromkeys(("CUDA device", "free disk"), "RuntimeError: driver too old")
