"""The feature network: the course's file read without running it, evaluation mode always, the shipped numbers."""

from __future__ import annotations

import builtins
import os
import pickle
import sys
import zipfile

import numpy as np
import pytest
import scipy.linalg
import torch
from conftest import ROOT
from torch import nn

from labutils import data, features, networks, reference, training
from labutils.reference import ReferenceModelError

SVHN = ROOT.parent / "shared" / "data" / "svhn"
real_images = pytest.mark.skipif(not (SVHN / "test_32x32.mat").exists(), reason="the real SVHN files are not here")


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randint(0, 256, (7, 3, 32, 32), dtype=torch.uint8, generator=training.generator(0, "test images"))


# --- the network ------------------------------------------------------------------------------------------


def test_the_network_is_the_courses():
    with training.forked_rng(0):
        network = networks.DigitClassifier()
    convolutions = [m for m in network.conv_stack if isinstance(m, nn.Conv2d)]
    sizes = [(c.in_channels, c.out_channels, c.kernel_size[0], c.padding[0]) for c in convolutions]
    channels = [(3, 8), (8, 16), (16, 16), (16, 32), (32, 64), (64, 128)]
    assert sizes == [*((a, b, 3, 1) for a, b in channels), (128, 512, 2, 0)]
    block = ["Conv2d", "ELU", "Dropout2d"]
    assert [type(m).__name__ for m in network.conv_stack] == (2 * block + ["MaxPool2d"]) * 3 + ["Conv2d"]
    assert [type(m).__name__ for m in network.mlp] == ["ELU", "Dropout", "Linear"]
    assert {m.p for m in network.modules() if isinstance(m, nn.Dropout2d)} == {0.1} and network.mlp[1].p == 0.5
    x = torch.zeros(2, 3, 32, 32)
    with training.forked_rng(0):
        assert network.conv_stack(x).shape == (2, 512, 3, 3) and network(x).shape == (2, 10)


def test_features_are_the_top_left_position_before_the_head(images):
    network = features.initialise(0).eval()
    x = data.from_bytes(images)
    torch.testing.assert_close(network.features(x), network.conv_stack(x)[:, :, 0, 0], rtol=1e-5, atol=1e-6)
    assert torch.equal(network(x), network.mlp(network.features(x)))


# --- extraction -------------------------------------------------------------------------------------------


def test_dropout_is_off_and_the_mode_left_as_found(images):
    network = features.initialise(0)
    expected = features.extract(network.eval(), images)
    network.train()
    network.conv_stack[2].eval()
    assert torch.equal(features.extract(network, images), expected)
    assert network.training and network.conv_stack[0].training and not network.conv_stack[2].training
    with training.forked_rng(0):
        assert not torch.equal(network.features(data.from_bytes(images)), expected), "else this test proves nothing"
    assert torch.equal(features.logits(network, images), network.eval()(data.from_bytes(images)))


def test_the_mode_is_left_as_found_after_an_error(images):
    network = features.initialise(0).train()
    with pytest.raises(RuntimeError):
        features._evaluate(network, network.mlp, images, 5)
    assert all(module.training for module in network.modules())


def test_the_batch_size_does_not_matter(images):
    network = features.initialise(0)
    whole = features.extract(network, images)
    assert whole.dtype == torch.float32 and whole.shape == (7, 512)
    for size in (1, 3, 7):
        torch.testing.assert_close(features.extract(network, images, size), whole, rtol=0, atol=1e-6)


def test_a_network_of_another_type_is_evaluated_in_its_own(images):
    whole = features.extract(features.initialise(0), images)
    exact = features.extract(features.initialise(0).double(), images)
    assert exact.dtype == features.logits(features.initialise(0).double(), images).dtype == torch.float64
    torch.testing.assert_close(exact.float(), whole, rtol=1e-4, atol=1e-5)
    narrow = features.extract(features.initialise(0).bfloat16(), images)
    assert narrow.dtype == torch.float32 and 0 < (narrow - whole).abs().max() < 0.2 * whole.abs().max()


def test_images_that_are_no_bytes_are_refused(images):
    # The function behind both, as beartype would answer first.
    with pytest.raises(ValueError, match=r"images are torch\.float32; expected bytes"):
        features._evaluate(features.initialise(0), nn.Identity(), data.from_bytes(images), 5)


# --- the course's file ------------------------------------------------------------------------------------

COURSE = """
from torch import nn

class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        layers = []
        for a, b, pool in ((3, 8, 0), (8, 16, 1), (16, 16, 0), (16, 32, 1), (32, 64, 0), (64, 128, 1)):
            layers += [nn.Conv2d(a, b, 3, padding=1), nn.ELU(), nn.Dropout2d(p=0.1)] + [nn.MaxPool2d(2)] * pool
        self.conv_stack = nn.Sequential(*layers, nn.Conv2d(128, {width}, 2))
        self.mlp = nn.Sequential(nn.ELU(), nn.Dropout(p=0.5), nn.Linear({width}, 10))

    def extract_features(self, x):
        return self.conv_stack(x)[:, :, 0, 0]
"""


@pytest.fixture
def course_file(tmp_path, monkeypatch):
    """A function that writes a whole module pickled as the course did, from a class that is then gone."""

    def make(zipped: bool, spoil=lambda module: None, width: int = 512):
        (tmp_path / "classify_svhn.py").write_text(COURSE.replace("{width}", str(width)))
        monkeypatch.syspath_prepend(tmp_path)
        sys.modules.pop("classify_svhn", None)
        import classify_svhn

        with training.forked_rng(5):
            module = classify_svhn.Classifier()
            spoil(module)
        torch.save(module, tmp_path / "svhn_classifier.pt", _use_new_zipfile_serialization=zipped)
        del sys.modules["classify_svhn"]
        (tmp_path / "classify_svhn.py").write_text("raise SystemExit('the class of the file was imported')")
        return tmp_path / "svhn_classifier.pt", module

    return make


both_formats = pytest.mark.parametrize("zipped", [False, True], ids=["legacy", "zip"])


@both_formats
def test_the_courses_pickled_module_is_read(course_file, images, zipped):
    path, theirs = course_file(zipped)
    assert zipfile.is_zipfile(path) == zipped
    ours = features.load(path)
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
    expected = theirs.eval().extract_features(data.from_bytes(images))
    torch.testing.assert_close(features.extract(ours, images), expected)
    assert ours.name == "svhn_classifier.pt" and len(ours.sha256) == 64
    assert not any(m.training for m in ours.modules()) and not any(p.requires_grad for p in ours.parameters())


@both_formats
def test_double_precision_and_views_are_read(course_file, zipped):
    def spoil(module):
        module.double()
        both = torch.arange(30.0, dtype=torch.float64)
        module.mlp[2].bias = nn.Parameter(both[4:24:2])  # a strided view into a storage of more values

    path, theirs = course_file(zipped, spoil)
    assert torch.equal(features.load(path).mlp[2].bias, theirs.mlp[2].bias.float())


@both_formats
def test_another_network_is_refused_by_name_and_shape(course_file, zipped):
    path, _ = course_file(zipped, width=500)
    with pytest.raises(
        ReferenceModelError, match=r"another network .*conv_stack.21.bias: \(500,\) there, \(512,\) here"
    ):
        features.load(path)
    path, _ = course_file(zipped, lambda module: module.mlp.append(nn.Linear(10, 10)))
    with pytest.raises(ReferenceModelError, match=r"mlp\.3\.bias: \(10,\) there, absent here"):
        features.load(path)
    path, _ = course_file(zipped, lambda module: delattr(module, "mlp"))
    with pytest.raises(ReferenceModelError, match=r"mlp\.2\.bias: absent there, \(10,\) here"):
        features.load(path)


def calls(function, *args):
    """An object whose pickle asks to call a function."""
    return type("Trap", (), {"__reduce__": lambda self: (function, args)})()


class Armed:
    """Its `__setstate__` would run on unpickling."""

    def __setstate__(self, state):
        open(state["path"], "w").close()

    def __getstate__(self):
        return self.__dict__


def traps(ran: str) -> dict:
    armed = Armed()
    armed.path = ran
    return {
        "os.system": calls(os.system, f"touch {ran}"),
        "os.mkdir": calls(os.mkdir, ran),
        "eval": calls(eval, f"open({ran!r}, 'w')"),
        "exec": calls(exec, f"open({ran!r}, 'w')"),
        "open": calls(builtins.open, ran, "w"),
        "getattr": calls(getattr, calls(__import__, "os"), "mkdir"),
        "setstate": armed,
        "reduce_ex state": type(
            "T", (), {"__reduce__": lambda self: (nn.Linear, (2, 2), {"__class__": os.system}, None, None)}
        )(),
    }


def write_trap(path, trap, zipped: bool) -> None:
    """A file of either format whose object is `trap`, written by hand."""
    if zipped:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", pickle.dumps(trap, 2))
    else:
        header = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}]
        path.write_bytes(b"".join(pickle.dumps(o, 2) for o in [*header, trap, []]))


@both_formats
@pytest.mark.parametrize("name", list(traps("")))
def test_a_hostile_pickle_runs_nothing(tmp_path, name, zipped):
    ran, path = tmp_path / "ran", tmp_path / "evil.pt"
    write_trap(path, traps(str(ran))[name], zipped)
    with pytest.raises(ReferenceModelError, match=r"evil\.pt cannot be read as a pickled module .*not a module"):
        features.load(path)
    assert not ran.exists()


@both_formats
@pytest.mark.parametrize("name", [n for n in traps("") if n != "reduce_ex state"])
def test_a_trap_inside_a_good_module_stays_inert(course_file, tmp_path, name, zipped):
    """The tensors come out, the trap beside them does not run; in place of a tensor it is an error."""
    ran = tmp_path / "ran"
    path, theirs = course_file(zipped, lambda module: setattr(module, "note", traps(str(ran))[name]))
    assert torch.equal(features.load(path).mlp[2].weight, theirs.mlp[2].weight)
    path, _ = course_file(zipped, lambda module: module.mlp[2]._parameters.update(bias=traps(str(ran))[name]))
    with pytest.raises(ReferenceModelError, match=r"mlp\.2\.bias is a .*, not a tensor"):
        features.load(path)
    assert not ran.exists()


def test_the_traps_would_run(tmp_path):
    """Guards the tests above: read by pickle itself, each trap does its work."""
    for name in ("os.system", "os.mkdir", "eval", "exec", "open", "setstate"):
        pickle.loads(pickle.dumps(traps(str(tmp_path / name))[name], 2))
        assert (tmp_path / name).exists(), name


@pytest.mark.parametrize(
    "code",
    [
        b"cposix\nsystem\n(S'touch RAN'\ntR.",  # protocol 0, REDUCE
        b"(S'touch RAN'\niposix\nsystem\n.",  # INST
        b"(cposix\nsystem\nS'touch RAN'\no.",  # OBJ
        b"\x80\x04\x8c\x08builtins\x8c\x0bprint.__call__\x93(\x8c\x03RANt R.".replace(b" ", b""),  # a dotted name
        b"cbuiltins\ngetattr\n(cbuiltins\n__import__\n(S'os'\ntRS'system'\ntR(S'touch RAN'\ntR.",  # nested
        b"cbuiltins\nobject\n}(S'__class__'\ncposix\nsystem\nudb.",  # BUILD on what is taken for a class
        b"ccollections\nOrderedDict\n)R(S'a'\ncposix\nsystem\n(S'touch RAN'\ntRsb.",
        b"(S'module'\ncposix\nsystem\nS'f'\nS's'\ntQ(S'touch RAN'\ntR.",  # through a persistent id
    ],
)
@both_formats
def test_raw_opcodes_run_nothing(tmp_path, code, zipped, capfd):
    ran, path = tmp_path / "ran", tmp_path / "evil.pt"
    code = code.replace(b"RAN", str(ran).encode()) if b"\x8c" not in code else code
    if zipped:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", code)
    else:
        path.write_bytes(b"".join(pickle.dumps(o, 2) for o in (0, 0, {})) + code + pickle.dumps([], 2))
    with pytest.raises(ReferenceModelError, match=r"evil\.pt cannot be read"):
        features.load(path)
    assert not ran.exists() and capfd.readouterr() == ("", "")


def test_damage_is_named(course_file, tmp_path):
    with pytest.raises(ReferenceModelError, match=r"none\.pt does not exist"):
        features.load(tmp_path / "none.pt")
    for zipped in (False, True):
        path, _ = course_file(zipped)
        content = path.read_bytes()
        for cut in (0, 10, len(content) // 2, len(content) - 5):
            path.write_bytes(content[:cut])
            with pytest.raises(ReferenceModelError, match=r"svhn_classifier\.pt cannot be read"):
                features.load(path)
    (tmp_path / "state.pt").write_bytes(b"")
    torch.save({"a": torch.ones(2)}, tmp_path / "state.pt")
    with pytest.raises(ReferenceModelError, match="it holds a dict, not a module"):
        features.load(tmp_path / "state.pt")


def test_a_storage_that_is_too_short_is_refused(course_file):
    path, _ = course_file(True)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content[:-4] if name.endswith("/data/0") else content)
    with pytest.raises(ReferenceModelError, match=r"cannot be read .*buffer is smaller"):
        features.load(path)


# --- training ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stripes() -> data.Split:
    """128 images that a small network tells apart at once: digit d is a bright row band d."""
    labels = torch.arange(128) % 10
    x = torch.zeros(128, 3, 32, 32, dtype=torch.uint8)
    for i, digit in enumerate(labels):
        x[i, :, 3 * digit : 3 * digit + 3] = 255
    return data.Split(x, labels)


def test_training_resumes_exactly(stripes, tmp_path, monkeypatch):
    whole = features.initialise(1)
    history = features.train_classifier(whole, stripes, epochs=7, seed=1, watch=stripes)
    augment, calls = features.augment, []

    def cut(*args):
        calls.append(args)
        if len(calls) == 7:
            raise KeyboardInterrupt
        return augment(*args)

    monkeypatch.setattr(features, "augment", cut)
    again, settings = (
        features.initialise(1),
        {"epochs": 7, "seed": 1, "watch": stripes, "checkpoint": tmp_path / "c.pt"},
    )
    with pytest.raises(KeyboardInterrupt):
        features.train_classifier(again, stripes, **settings)
    again = features.initialise(2)
    resumed = features.train_classifier(again, stripes, **settings)
    assert len(calls) == 9, "five epochs came from the checkpoint"
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True))
    assert resumed.rows == history.rows and not again.training
    with pytest.raises(training.CheckpointMismatch, match="seed: 1 there, 3 here"):
        features.train_classifier(again, stripes, **settings | {"seed": 3})


def test_augmentation_is_repeatable_gentle_and_never_mirrors():
    down, right = torch.meshgrid(torch.linspace(-0.5, 0.5, 32), torch.linspace(-0.5, 0.5, 32), indexing="ij")
    x = torch.stack([right, down, torch.zeros(32, 32)]).expand(200, 3, 32, 32)
    seen = features.augment(x, training.generator(0, "augment"))
    assert torch.equal(seen, features.augment(x, training.generator(0, "augment")))
    assert not torch.equal(seen, features.augment(x, training.generator(1, "augment")))
    centre = seen[:, :2, 8:24, 8:24]
    slopes = torch.stack([centre.diff(dim=3).mean((2, 3)), centre.diff(dim=2).mean((2, 3))], 2)  # (n, channel, axis)
    # An inverted image changes the sign of both channels, a mirrored one the orientation of the pair.
    assert (torch.linalg.det(slopes) > 0).all()
    negatives = (slopes[:, 0, 0] < 0).double().mean()
    assert 0.35 < negatives < 0.65, "about half of the images are negatives"
    moved = (seen[:, 2].mean((1, 2))).abs().max()
    assert 0.1 < moved <= 0.3 + 1e-6, "colours move, at most by 0.3"


# --- what is shipped --------------------------------------------------------------------------------------


def test_the_reference_is_frozen_and_in_evaluation_mode():
    network = features.load()
    assert network.name == "reference" and network.sha256 == reference.manifest()["svhn_classifier"]["sha256"]
    assert not any(m.training for m in network.modules()) and not any(p.requires_grad for p in network.parameters())


def test_the_shipped_features_give_the_stated_accuracy():
    """Head and features belong together: read offline, without an image."""
    stated = reference.manifest()["svhn_classifier"]["accuracy"]
    assert stated["test"]["n"] == 500 and stated["unseen"]["n"] == 5000
    assert min(one["value"] for one in stated.values()) >= 0.92
    for split, accuracy in stated.items():
        found, digits = features.real(split)
        with torch.no_grad():
            right = features.load().mlp(found).argmax(1) == digits
        assert right.double().mean().item() == pytest.approx(accuracy["value"], abs=0.0021)  # an image of rounding
    train, labels = features.real("train")
    assert train.shape == (2500, 512) and labels.bincount().tolist()[1] == labels.bincount().max()
    with pytest.raises(ValueError, match="no shipped features of 'valid'; choose"):
        features.real("valid")


@pytest.fixture(scope="module")
def extracted() -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Features of the real crops, anew, as far as the smaller file has them."""
    network, crops = features.load(), data.load("svhn", SVHN)
    splits = {"train": crops.train, "unseen": crops.unseen, "test": crops.test}
    return {name: (features.extract(network, split.images), split.labels) for name, split in splits.items()}


@real_images
def test_the_shipped_features_are_those_of_the_real_crops(extracted):
    """Test crops row by row. Of the longer training file's unseen crops these are the first, in the same order."""
    for split in ("test", "unseen"):
        rows, digits = extracted[split]
        shipped, labels = (found[: len(rows)] for found in features.real(split))
        assert len(rows) > 400 and torch.equal(digits, labels)
        torch.testing.assert_close(shipped, rows, rtol=1e-3, atol=1e-3)


@real_images
def test_no_shipped_training_crop_is_unseen_and_none_unseen_is_trained_on(extracted):
    """A crop is found by its features, which half precision moves by less than any two crops differ."""
    shipped = {split: features.real(split)[0] for split in ("train", "unseen")}
    for mine, other in (("train", "unseen"), ("unseen", "train")):
        nearest = torch.cdist(extracted[mine][0], shipped[other]).min(dim=1).values
        assert (nearest > 3e-3 * extracted[mine][0].norm(dim=1)).all(), f"a {mine} crop is among the {other} ones"


@real_images
def test_half_precision_costs_a_score_nothing(extracted):
    def frechet(a: np.ndarray, b: np.ndarray) -> float:
        p, q = np.cov(a.T), np.cov(b.T)
        root = scipy.linalg.sqrtm(p @ q).real
        return ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(p + q - 2 * root)

    exact = [extracted[split][0].double().numpy() for split in ("unseen", "test")]
    shipped = [
        features.real(split)[0].double().numpy()[: len(rows)]
        for split, rows in zip(("unseen", "test"), exact, strict=True)
    ]
    assert frechet(*shipped) == pytest.approx(frechet(*exact), rel=5e-5)
    assert frechet(*shipped) != frechet(*exact), "else nothing was compared"


def test_the_network_computes_only_what_its_one_position_sees_and_that_exactly():
    network = features.initialise().double().eval()
    x = torch.rand(3, 3, 32, 32, dtype=torch.float64, generator=training.generator(0, "seen")) * 2 - 1
    torch.testing.assert_close(network.features(x), network.conv_stack(x)[:, :, 0, 0], rtol=1e-12, atol=1e-12)
    assert network.seen[0] == 30, "rows of the image, of 32"
    x.requires_grad_()
    seen = torch.autograd.grad(network.conv_stack(x)[:, :, 0, 0].sum(), x)[0].abs().sum(dim=(0, 1))
    assert seen[29].any() and seen[:, 29].any() and not seen[30:].any() and not seen[:, 30:].any()
