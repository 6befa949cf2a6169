"""`labutils fid`: what it reads, what it refuses, what it prints. The network is untrained, the images are noise."""

from __future__ import annotations

import json
import math
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from scipy.io import savemat

from labutils import data, features, fid, latent, networks, vae
from labutils.commands import cli, score
from labutils.training import generator


def crops(n: int, *path: int, contrast: float = 1.0) -> torch.Tensor:
    """Bytes with some structure: flat colours and a little noise."""
    g = generator(0, "crops", *path)
    x = 128 + contrast * (40 * torch.randn(n, 3, 1, 1, generator=g) + 20 * torch.randn(n, 3, 32, 32, generator=g))
    return x.clamp(0, 255).to(torch.uint8)


def write_mat(path, images):
    savemat(path, {"X": images.permute(2, 3, 1, 0).numpy(), "y": np.ones((len(images), 1), dtype=np.uint8)})


@pytest.fixture
def network(monkeypatch):
    """Stands for the shipped network; another name gives another network."""

    def load(name):
        net = features.initialise(0 if name == "reference" else 1)
        net.name, net.sha256 = name, str(len(name)) * 64
        return net

    def real(split):
        return features.extract(load("reference"), crops(120 if split == "unseen" else 40, len(split))), torch.zeros(1)

    monkeypatch.setattr(features, "load", load)
    monkeypatch.setattr(features, "real", real)
    return load("reference")


@pytest.fixture
def folder(tmp_path, network):
    """Thirty images, some in a folder below, PNG."""
    images = crops(30, 7, contrast=0.5)
    for i, image in enumerate(images):
        path = tmp_path / "samples" / str(i % 2) / f"{i:03}.PNG"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)
    (tmp_path / "samples" / "notes.txt").write_text("not an image")
    write_mat(tmp_path / "test_32x32.mat", crops(50, 8))
    write_mat(tmp_path / "train_32x32.mat", crops(110, 9))
    return tmp_path


def run(*arguments, status=0):
    done = CliRunner().invoke(cli.main, ["fid", *map(str, arguments)])
    assert done.exit_code == status, done.output
    assert done.exception is None or isinstance(done.exception, SystemExit)
    return done.output


def test_a_folder_against_a_mat_with_its_floor(folder, network):
    found = json.loads(run(folder / "samples", folder / "test_32x32.mat", "--json"))
    images = crops(30, 7, contrast=0.5)
    images = torch.cat([images[0::2], images[1::2]])  # in the order of names: 0/000, 0/002, …, 1/001, …
    assert torch.equal(score.read_images(folder / "samples"), images)
    test = features.extract(network, crops(50, 8))
    expected = fid.scores(features.extract(network, images), test)
    floor = fid.real_floor(features.real("unseen")[0], test, 30)
    for part, scores in (("scores", expected), ("floor", floor)):
        assert (found[part]["n"], found[part]["m"]) == (30, 50)
        for name in fid.SCORES:
            assert found[part][name]["value"] == pytest.approx(getattr(scores, name).value, rel=1e-6, abs=1e-9)
            assert found[part][name]["stderr"] == pytest.approx(getattr(scores, name).stderr, rel=1e-4, abs=1e-9)
    assert found["network"] == "reference" and found["note"] == ""


def test_the_table_shows_every_score_beside_its_floor(folder):
    lines = run(folder / "samples", folder / "test_32x32.mat").splitlines()
    assert "samples against" in lines[0] and "reference" in lines[0]
    assert "30 against 50" in lines[1] and "floor: 30 real" in lines[1]
    assert [line.split()[0] for line in lines[2:8]] == list(fid.SCORES)
    fields = lines[2].split()
    assert fields[2] == fields[5] == "±" and fields[-1] == "times"
    assert float(fields[-2]) == pytest.approx(float(fields[1]) / float(fields[4]), rel=0.02)


def test_the_shipped_real_crops_and_their_floor(folder):
    found = json.loads(run(folder / "samples", "real", "--json"))
    assert found["b"] == "real test crops" and found["scores"]["m"] == 40 and found["floor"]["n"] == 30
    # More samples than unseen crops: as many as there are, less some to draw from.
    write_mat(folder / "many.mat", crops(200, 10))
    assert json.loads(run(folder / "many.mat", "real", "--json"))["floor"]["n"] == 120


def test_floor_of_another_network_from_the_files_beside(folder):
    found = json.loads(run(folder / "samples", folder / "test_32x32.mat", "--features", "other", "--json"))
    assert found["network"] == "other" and found["floor"]["n"] == 30
    write_mat(folder / "mine.mat", crops(50, 11))
    found = json.loads(run(folder / "samples", folder / "mine.mat", "--features", "other", "--json"))
    assert found["floor"] is None and "no other real crops" in found["note"]
    assert "the reference network's, not of other" in run(folder / "samples", "real", "--features", "other", status=2)


def test_no_floor_where_it_would_mean_nothing(folder):
    found = json.loads(run(folder / "test_32x32.mat", folder / "samples", "--json"))
    assert found["floor"] is None and "not known to be real" in found["note"]
    write_mat(folder / "training.mat", crops(120, len("unseen"))[:60])
    output = run(folder / "samples", folder / "training.mat")
    assert "among the real crops of the floor" in output and "times" not in output


def test_saved_statistics_score_as_the_images_do(folder):
    a, b = folder / "a.npz", folder / "b.npz"
    assert run(folder / "samples", "--save", a) == ""
    run(folder / "test_32x32.mat", folder / "samples", "--save", b)
    direct = json.loads(run(folder / "samples", folder / "test_32x32.mat", "--json"))
    saved = json.loads(run(a, b, "--json"))
    for name in fid.SCORES:
        assert saved["scores"][name]["value"] == pytest.approx(direct["scores"][name]["value"], rel=1e-9)
        assert saved["floor"][name] == pytest.approx(direct["floor"][name], rel=1e-9)
    assert "exists" in run(folder / "samples", "--save", a, status=2)
    assert a.read_bytes()[:2] == b"PK"


def test_moments_alone_give_the_distance(folder, network):
    small, full = (score.read(str(folder / name), network) for name in ("samples", "test_32x32.mat"))
    score.save_statistics(folder / "small.npz", small, with_features=False)
    loaded = score.load_statistics(folder / "small.npz")
    assert loaded.features is None and not loaded.real and loaded.moments.count == 30
    assert np.allclose(loaded.moments.cov, small.moments.cov, rtol=1e-12)
    expected = fid.frechet_with_error(small.features, full.features).value
    found = json.loads(run(folder / "small.npz", folder / "test_32x32.mat", "--json"))
    assert found["scores"] == {"value": pytest.approx(expected, rel=1e-6), "stderr": None, "n": 30}
    output = run(folder / "small.npz", folder / "test_32x32.mat")
    assert "moments only" in output and "nan" not in output


def test_statistics_of_another_network_are_refused(folder):
    run(folder / "samples", "--save", folder / "a.npz")
    output = run(folder / "a.npz", folder / "test_32x32.mat", "--features", "other", status=2)
    assert "network reference (9999" in output and "not of other (5555" in output


def test_damaged_and_foreign_statistics(folder, network):
    path = folder / "a.npz"
    score.save_statistics(path, score.read(str(folder / "samples"), network))
    whole = path.read_bytes()
    middle = len(whole) // 2
    flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
    for content in (whole[:middle], flipped, b"", b"hello", b"\x93NUMPY"):
        path.write_bytes(content)
        with pytest.raises(score.StatisticsError, match=r"a\.npz is damaged, or no file of feature statistics"):
            score.load_statistics(path)
    with zipfile.ZipFile(path, "w"):
        pass
    with pytest.raises(score.StatisticsError, match=r"a\.npz is no file of feature statistics: it has no count"):
        score.load_statistics(path)
    with pytest.raises(FileNotFoundError):
        score.load_statistics(folder / "none.npz")


class Trap:
    def __reduce__(self):
        return (print, ("executed",))


def test_a_statistics_file_executes_nothing(folder, network, capsys):
    good = score.read(str(folder / "samples"), network)
    fields = {"mean": good.moments.mean, "cov": good.moments.cov, "count": 30, "real": True, "network": "reference"}
    trap = np.array([Trap()], dtype=object)
    np.savez(folder / "trap.npz", **fields, name=trap, network_sha256="9" * 64)
    pickled = folder / "pickled.npz"
    pickled.write_bytes(pickle.dumps(Trap()))
    for path in (folder / "trap.npz", pickled):
        with pytest.raises(score.StatisticsError, match="more than plain arrays") as caught:
            score.load_statistics(path)
        assert "pickle=" not in str(caught.value), "NumPy's advice is to allow what may execute anything"
    assert "executed" not in capsys.readouterr().out


def test_a_mat_file_in_capitals_is_one(folder):
    (folder / "TEST_32x32.MAT").write_bytes((folder / "test_32x32.mat").read_bytes())
    first, second = (json.loads(run(folder / "samples", folder / name, "--features", "other", "--json"))
                     for name in ("test_32x32.mat", "TEST_32x32.MAT"))  # fmt: skip
    assert first["scores"] == second["scores"] and first["floor"] == second["floor"] is not None


def test_what_tools_leave_in_folders_is_not_scored(folder, capsys):
    before = score.read_images(folder / "samples")
    assert capsys.readouterr().err == ""
    for place in (".ipynb_checkpoints", "0/.Trash-1000/files", "__MACOSX/0", "."):
        (folder / "samples" / place).mkdir(parents=True, exist_ok=True)
        name = ".hidden.png" if place == "." else "a.png"
        Image.fromarray(np.zeros((32, 32, 3), dtype=np.uint8)).save(folder / "samples" / place / name)
    assert torch.equal(score.read_images(folder / "samples"), before)
    said = capsys.readouterr().err
    assert "4 hidden images are left out" in said and len(said.splitlines()) == 1
    for name in (".ipynb_checkpoints", ".Trash-1000", "__MACOSX", ".hidden.png"):
        assert name in said
    (folder / "samples").rename(folder / ".samples")
    assert torch.equal(score.read_images(folder / ".samples"), before), "the folder itself was asked for"
    (folder / "only" / ".ipynb_checkpoints").mkdir(parents=True)
    with pytest.raises(data.DataError, match="has no images"):
        score.read_images(folder / "only")


def test_equal_crops_have_no_multiple_of_zero(folder):
    write_mat(folder / "test_32x32.mat", crops(1, 13).repeat(40, 1, 1, 1))
    output = run(folder / "samples", folder / "test_32x32.mat", "--features", "other")
    assert "floor" in output and "times" in output
    precision = next(line for line in output.splitlines() if line.startswith("precision"))
    assert "times" not in precision
    json.loads(run(folder / "test_32x32.mat", folder / "test_32x32.mat", "--json"))


def test_the_table_says_what_its_errors_are(folder):
    output = run(folder / "samples", folder / "test_32x32.mat")
    assert score.LEGEND in output and "repeated draws of both sets" in output
    output.encode("cp437", errors="strict"), output.encode("cp1252", errors="strict")


def test_the_seed_reaches_the_floor_and_the_errors(folder, network):
    a, b = (score.read(str(folder / name), network) for name in ("samples", "test_32x32.mat"))
    first, again, other = (score.compare(a, b, network, seed) for seed in (0, 0, 1))
    assert first == again
    assert first.floor.fid.value != other.floor.fid.value and first.scores.fid.value == other.scores.fid.value
    assert first.scores.fid.stderr != other.scores.fid.stderr


def test_the_floor_is_drawn_from_the_split_asked_for(folder, network, monkeypatch):
    asked = []
    monkeypatch.setattr(features, "real", lambda split: asked.append(split) or (torch.ones(30, 512), torch.zeros(30)))
    b = score.read(str(folder / "test_32x32.mat"), network)
    score.floor_crops(b, network), score.floor_crops(b, network, "unseen")
    assert asked == [score.FLOOR, "unseen"]


def test_statistics_that_do_not_fit_together(folder, network):
    good = score.read(str(folder / "samples"), network)
    m = good.moments
    content = {"name": "x", "mean": m.mean, "cov": m.cov, "count": m.count, "real": True, "network": "reference"}
    content |= {"network_sha256": "9" * 64, "features": good.features}
    wrong = [{"count": 1}, {"count": 29}, {"mean": m.mean[:5]}, {"cov": -m.cov}, {"cov": m.cov[:5]},
             {"mean": m.mean * math.nan}, {"features": good.features[:, :5]}]  # fmt: skip
    for change in wrong:
        np.savez(folder / "x.npz", **(content | change))
        with pytest.raises(score.StatisticsError):
            score.load_statistics(folder / "x.npz")
    np.savez(folder / "x.npz", **content)
    assert score.load_statistics(folder / "x.npz").real


def test_an_image_that_does_not_fit_is_named(folder):
    bad = folder / "samples" / "0" / "zz.png"
    cases = [((28, 32, 3), "RGB, 32 pixels wide and 28 high"), ((32, 32), "is L, 32"), ((32, 32, 4), "is RGBA")]
    for shape, message in cases:
        Image.fromarray(np.zeros(shape, dtype=np.uint8)).save(bad)
        output = run(folder / "samples", folder / "test_32x32.mat", status=2)
        assert "zz.png" in output and message in output and "expected RGB, 32×32" in output
    bad.write_bytes(b"not a picture")
    assert "zz.png cannot be read" in run(folder / "samples", folder / "test_32x32.mat", status=2)
    bad.write_bytes(b"")
    assert "zz.png cannot be read" in run(folder / "samples", folder / "test_32x32.mat", status=2)


def test_bad_arguments(folder):
    (folder / "empty").mkdir()
    for arguments, message in (
        ([folder / "samples"], "give B"),
        ([folder / "nowhere", "real"], "does not exist"),
        ([folder / "empty", "real"], "has no images"),
        ([folder / "nowhere.mat", "real"], "does not exist"),
        ([folder / "samples", "--save", folder / "nowhere" / "a.npz"], "is no folder"),
        ([folder / "samples", folder / "samples" / "notes.txt"], "no file of feature statistics"),
    ):
        assert message in " ".join(run(*arguments, status=2).split())


def test_jpeg_is_read(folder):
    image = crops(1, 12)[0]
    (folder / "jpegs").mkdir()
    for name in ("a.jpg", "b.JPEG"):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / "jpegs" / name, format="JPEG", quality=100)
    found = score.read_images(folder / "jpegs")
    assert found.shape == (2, 3, 32, 32)
    assert (found[0].float() - image.float()).abs().mean() < 15


# --- samples in, samples out ------------------------------------------------------------------------------


@pytest.fixture
def generators(monkeypatch):
    """Untrained generators in place of the shipped ones."""
    monkeypatch.setattr(
        latent, "reference_generator", lambda name: vae.initialise(networks.Generator, len(name)).eval()
    )


def sample(*arguments):
    return CliRunner().invoke(cli.main, ["sample", *map(str, arguments)])


def test_samples_are_written_and_read_back_byte_for_byte(tmp_path, generators):
    out = tmp_path / "new" / "samples"
    done = sample("gan", "--n", 5, "--seed", 2, "--out", out)
    assert done.exit_code == 0, done.output
    assert sorted(p.name for p in out.iterdir()) == [f"{i:05}.png" for i in range(5)]
    assert torch.equal(score.read_images(out), latent.sample(latent.reference_generator("gan"), 5, 2))
    assert [p.name for p in out.parent.iterdir()] == ["samples"], "nothing is left beside it"


def test_nothing_is_overwritten_by_samples(tmp_path, generators):
    (tmp_path / "mine.png").write_text("precious")
    done = sample("vae", "--n", 3, "--out", tmp_path)
    assert done.exit_code == 2 and "is not empty" in done.output
    assert [p.name for p in tmp_path.iterdir()] == ["mine.png"]
    (tmp_path / "empty").mkdir()
    assert sample("vae", "--n", 3, "--out", tmp_path / "empty").exit_code == 0
    assert sample("vae", "--n", 0, "--out", tmp_path / "none").exit_code == 2
    assert sample("dcgan", "--out", tmp_path / "none").exit_code == 2


def written(folder) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_empty_folders_that_cannot_be_replaced_are_filled(tmp_path, generators, monkeypatch):
    """The current folder, the target of a link; a mount refuses to be renamed or removed."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert sample("gan", "--n", 2, "--out", ".").exit_code == 0
    assert written(tmp_path / "here") == ["00000.png", "00001.png"]
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk", target_is_directory=True)
    assert sample("gan", "--n", 2, "--out", tmp_path / "link").exit_code == 0
    assert (tmp_path / "link").is_symlink() and written(tmp_path / "disk") == ["00000.png", "00001.png"]

    mount = tmp_path / "mount"
    mount.mkdir()
    rename = Path.rename

    def busy(self, *target):
        if mount in (self, *target):
            raise OSError(16, "Device or resource busy")
        return rename(self, *target)

    monkeypatch.setattr(Path, "rename", busy)
    monkeypatch.setattr(Path, "rmdir", busy)
    assert sample("gan", "--n", 2, "--out", mount).exit_code == 0
    assert written(mount) == ["00000.png", "00001.png"]


def test_a_cut_leaves_an_empty_folder_as_it_was(tmp_path, generators, monkeypatch):
    rename = Path.rename

    def full(self, target):
        if target.name == "00002.png":
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", full)
    done = sample("gan", "--n", 4, "--out", tmp_path)
    assert done.exit_code == 2 and "cannot be written (No space left on device)" in " ".join(done.output.split())
    assert written(tmp_path) == []
    save = Image.Image.save
    monkeypatch.setattr(Image.Image, "save", lambda self, path: full(path, path) and save(self, path))
    for out in (tmp_path, tmp_path / "new"):
        assert sample("gan", "--n", 4, "--out", out).exit_code == 2
        assert written(tmp_path) == []


def test_folders_that_cannot_be_written_are_named_in_a_line(tmp_path, generators):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "dangling").symlink_to(tmp_path / "gone")
    outs = [tmp_path / "file" / "samples", tmp_path / "dangling"]
    outs += [Path("/proc/samples")] * Path("/proc/self").exists()  # where root cannot write either
    for out in outs:
        done = sample("gan", "--n", 2, "--out", out)
        message = done.output.split("Error: ")[1].strip()
        assert done.exit_code == 2 and "cannot be written" in message and str(out) in message.replace("\n", "")
    assert written(tmp_path) == ["dangling", "file"]


def test_sampling_and_scoring_are_two_commands(tmp_path, folder, generators):
    assert sample("gan", "--n", 40, "--out", tmp_path / "fake").exit_code == 0
    done = CliRunner().invoke(cli.main, ["fid", str(tmp_path / "fake"), str(folder / "test_32x32.mat"), "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.output)["scores"]["fid"]["value"] > 0
