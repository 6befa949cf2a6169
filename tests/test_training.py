"""Seeds, the loop, checkpoints; and a real training killed again and again."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn

from labutils import training
from labutils.training import Batches, CheckpointMismatch, History, TrainingDiverged, fit, generator


def test_a_generator_is_a_function_of_seed_and_path():
    def draw(*path):
        return torch.randn(4, generator=generator(*path))

    assert torch.equal(draw(0, "z", 3), draw(0, "z", 3))
    different = [draw(0, "z", 3), draw(1, "z", 3), draw(0, "y", 3), draw(0, "z", 4), draw(0)]
    assert len({tuple(d.tolist()) for d in different}) == 5


def test_neighbouring_streams_are_uncorrelated():
    rows = torch.stack([torch.randn(2000, generator=generator(0, "image", i)) for i in range(50)])
    off_diagonal = torch.corrcoef(rows) - torch.eye(50)
    assert off_diagonal.abs().max() < 0.12  # 5 standard errors of a correlation over 2,000 draws


def test_forked_rng_seeds_and_restores():
    before = torch.get_rng_state()
    with training.forked_rng(5, "init"):
        first = torch.rand(3)
    with training.forked_rng(5, "init"):
        assert torch.equal(first, torch.rand(3))
    assert torch.equal(before, torch.get_rng_state())


def test_batches_cover_every_row_once_an_epoch_and_reshuffle():
    batches = Batches(10, 4, seed=0)
    assert batches.per_epoch == 3
    epochs = [torch.cat([batches(3 * e + k) for k in range(3)]) for e in range(2)]
    for epoch in epochs:
        assert sorted(epoch.tolist()) == list(range(10))
    assert not torch.equal(*epochs)
    assert torch.equal(Batches(10, 4, seed=0)(4), batches(4)), "a step's batch depends on nothing before it"


@pytest.mark.parametrize("size", [0, 11])
def test_batches_refuse_an_impossible_size(size):
    with pytest.raises(ValueError, match=f"batch_size is {size}; expected 1 to 10"):
        Batches(10, size, seed=0)


@pytest.mark.parametrize(("name", "message"), [("gpu", "choose 'auto'"), ("cuda", "no CUDA device")])
def test_a_device_that_is_not_there(name, message, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=message):
        training.pick_device(name)


def toy(total=40, checkpoint=None, stop_at=None, bad_at=None, **more):
    """Fit a line with Adam; returns (weights, history). stop_at: raise there, as a kill would."""
    with training.forked_rng(0):
        model = nn.Linear(3, 1)
    optimiser = torch.optim.Adam(model.parameters(), 0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, total)

    def step(i):
        if i == stop_at:
            raise KeyboardInterrupt
        x = torch.randn(8, 3, generator=generator(0, "x", i))
        loss = (model(x).squeeze(1) - x.sum(dim=1)).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        return {"loss": loss.new_tensor(float("nan")) if i == bad_at else loss}

    parts = {"model": model, "optimiser": optimiser, "schedule": schedule}
    options = {"recipe": {"rate": 0.05}, "log_every": 7, "save_every_s": 0.0} | more
    history = fit(step, total, parts=parts, checkpoint=checkpoint, **options)
    return torch.cat([p.detach().flatten() for p in model.parameters()]), history


def test_a_cut_training_continues_to_the_same_bits(tmp_path):
    whole, history = toy()
    for at in (1, 6, 20, 39):
        file = tmp_path / f"{at}.pt"
        with pytest.raises(KeyboardInterrupt):
            toy(checkpoint=file, stop_at=at)
        weights, resumed = toy(checkpoint=file)
        assert torch.equal(whole, weights)
        assert history.rows == resumed.rows, "the logged history is the same too"
    again, _ = toy(checkpoint=tmp_path / "20.pt", stop_at=0)
    assert torch.equal(whole, again), "a finished training is loaded, no step is run"


def interrupting(at, times=1):
    """A step's work that ends with Ctrl-C before the optimiser has moved, as often as `times`."""
    real = torch.optim.Adam.step
    calls = []

    def step(self, closure=None):
        calls.append(0)
        for _ in range(times if len(calls) == at + 1 else 0):
            os.kill(os.getpid(), signal.SIGINT)
        return real(self, closure)

    return step


def test_an_interrupt_waits_for_the_end_of_its_step_and_keeps_it(tmp_path, monkeypatch, capsys):
    whole, history = toy()
    file, handler = tmp_path / "c.pt", signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(torch.optim.Adam, "step", interrupting(at=16))
        toy(checkpoint=file, save_every_s=1e9)
    assert training.load_checkpoint(file)["done"] == 17, "the step it came in is finished and kept"
    assert f"interrupted after step 17 of 40; run the same again and it goes on from there ({file})" in (
        capsys.readouterr().err
    )
    assert signal.getsignal(signal.SIGINT) is handler
    weights, resumed = toy(checkpoint=file, save_every_s=1e9)
    assert torch.equal(whole, weights) and history.rows == resumed.rows
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(torch.optim.Adam, "step", interrupting(at=3))
        toy()
    assert "interrupted after step 4 of 40; nothing was kept" in capsys.readouterr().err


def test_a_second_interrupt_ends_at_once_and_a_thread_has_none(tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(torch.optim.Adam, "step", interrupting(at=16, times=2))
        toy(checkpoint=tmp_path / "c.pt", save_every_s=1e9)
    assert not (tmp_path / "c.pt").exists()
    with ThreadPoolExecutor(1) as pool:
        assert len(pool.submit(toy, total=5).result()[1].rows) == 1


def test_history_means_and_columns():
    _, history = toy(total=10)
    steps, values = history.column("loss")
    assert steps.tolist() == [7, 10] and len(values) == 2
    with pytest.raises(KeyError, match="history has no 'lose'; it has loss"):
        history.column("lose")
    assert History().rows == []


def test_evaluation_runs_where_asked_and_at_the_end():
    seen = []
    _, history = toy(total=10, evaluate=lambda: {"valid": float(len(seen), *seen.append(0) or ())}, evaluate_every=4)
    assert history.column("valid")[0].tolist() == [4, 8, 10]


def test_a_training_is_watched_after_each_step_inside_the_block_alone():
    seen = []
    with training.watching(lambda parts, history, done, total: seen.append((done, total, len(history.rows)))):
        weights, history = toy(total=10)
    again, same = toy(total=10)
    assert seen == [(done, 10, done // 7 + done // 10) for done in range(1, 11)]
    assert torch.equal(weights, again) and history.rows == same.rows


@pytest.mark.parametrize("at", [0, 17, 39])
def test_nan_stops_and_names_the_step(at):
    with pytest.raises(TrainingDiverged, match=f"loss is nan at step {at};"):
        toy(bad_at=at)


def test_another_recipe_is_refused_by_name(tmp_path):
    toy(checkpoint=tmp_path / "c.pt")
    with pytest.raises(CheckpointMismatch, match=r"rate: 0.05 there, 0.1 here"):
        toy(checkpoint=tmp_path / "c.pt", recipe={"rate": 0.1})
    with pytest.raises(CheckpointMismatch, match=r"total_steps: 40 there, 50 here"):
        toy(total=50, checkpoint=tmp_path / "c.pt")


def test_a_damaged_checkpoint_is_named_and_kept(tmp_path):
    file = tmp_path / "c.pt"
    toy(checkpoint=file)
    damaged = file.read_bytes()[:200]
    file.write_bytes(damaged)
    with pytest.raises(ValueError, match=r"c\.pt cannot be read"):
        toy(checkpoint=file)
    assert file.read_bytes() == damaged


@pytest.fixture(scope="module")
def cut(tmp_path_factory):
    """A checkpoint of a training that was cut after its 20th step, and the one before it."""
    file = tmp_path_factory.mktemp("cut") / "c.pt"
    with pytest.raises(KeyboardInterrupt):
        toy(checkpoint=file, stop_at=20)
    return file


def copied(cut, folder):
    for file in (cut, training.previous(cut)):
        shutil.copy(file, folder)
    return folder / cut.name


def test_one_flipped_bit_is_never_trained_on(cut, tmp_path, capsys):
    """Wherever it lies: the training goes on from the checkpoint before, or from the same numbers."""
    whole, history = toy()
    content, draw = cut.read_bytes(), random.Random(0)
    found_out = 0
    for _ in range(60):
        file = copied(cut, tmp_path)
        place = draw.randrange(len(content))
        file.write_bytes(content[:place] + bytes([content[place] ^ 1 << draw.randrange(8)]) + content[place + 1 :])
        weights, resumed = toy(checkpoint=file)
        assert torch.equal(weights, whole) and resumed.rows == history.rows, place
        found_out += "going on from the one before it, after step 19" in capsys.readouterr().err
    assert found_out > 20, "of the file's bits half are padding"


def test_a_damaged_weight_is_refused_where_no_other_checkpoint_is(cut, tmp_path):
    file = copied(cut, tmp_path)
    training.previous(file).unlink()
    weight = training.load_checkpoint(file)["parts"]["model"]["weight"].numpy().tobytes()
    content = file.read_bytes()
    assert content.count(weight) == 1
    place = content.index(weight) + 3
    file.write_bytes(content[:place] + bytes([content[place] ^ 64]) + content[place + 1 :])
    with pytest.raises(ValueError, match=r"c\.pt cannot be read \(BadZipFile\); move it away"):
        toy(checkpoint=file)


def test_a_kill_between_the_two_files_leaves_the_older(cut, tmp_path):
    file = copied(cut, tmp_path)
    file.unlink()
    weights, _ = toy(checkpoint=file)
    assert torch.equal(weights, toy()[0])
    assert not training.previous(file).exists(), "a finished training keeps one file"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"done": 41}, "has done 41 of 40 steps"),
        ({"done": -1}, "has done -1 of 40 steps"),
        ({"rows": None, "drop": "rows"}, "is no checkpoint of a training"),
        ({"parts": {"model": {"weight": torch.zeros(2, 3), "bias": torch.zeros(2)}}}, "is of another network"),
        ({"parts": {}}, "is of another network"),
    ],
)
def test_a_checkpoint_of_something_else_is_refused(cut, tmp_path, change, message):
    file = copied(cut, tmp_path)
    training.previous(file).unlink()
    content = training.load_checkpoint(file) | change
    training.save_checkpoint(file, {k: v for k, v in content.items() if k not in (change.get("drop"), "drop")})
    with pytest.raises((ValueError, CheckpointMismatch), match=message):
        toy(checkpoint=file)


def test_a_checkpoint_cannot_execute(tmp_path):
    class Evil:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "ran"),))

    torch.save({"done": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(ValueError, match="cannot be read"):
        training.load_checkpoint(tmp_path / "evil.pt")
    assert not (tmp_path / "ran").exists()


def test_a_failed_save_keeps_the_old_checkpoint(tmp_path, monkeypatch):
    file = tmp_path / "c.pt"
    training.save_checkpoint(file, {"done": 1})

    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space"):
        training.save_checkpoint(file, {"done": 2})
    assert training.load_checkpoint(file) == {"done": 1}


TRAIN = """
import sys, torch
from pathlib import Path
from labutils import data, networks, training, vae
torch.set_num_threads(1)
fit = training.fit
training.fit = vae.fit = lambda *a, **k: fit(*a, **{**k, "save_every_s": 0.3})
images = data.binarized_mnist().train.images
model = vae.initialise(networks.MnistVAE, 0)
print("ready", flush=True)
recipe = vae.Recipe(batch_size=50, schedule="one-cycle")
watch = {"valid": images[1500:1600]}
vae.train(model, images[:1500], recipe, epochs=4, watch=watch, checkpoint=Path(sys.argv[1]))
torch.save(model.state_dict(), sys.argv[2])
"""


@pytest.mark.slow
def test_killed_ten_times_at_random_moments_the_weights_are_the_same(tmp_path):
    def start(name):
        command = [sys.executable, "-c", TRAIN, str(tmp_path / f"{name}.ckpt"), str(tmp_path / f"{name}.pt")]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        return process, process.stdout.readline()

    whole, _ = start("whole")
    begun = time.monotonic()
    _, errors = whole.communicate()
    assert whole.returncode == 0, errors
    seconds = time.monotonic() - begun

    moments, kills = random.Random(0), 0
    while kills < 10:
        process, _ = start("cut")
        try:
            # Ten such spans add up to some six tenths of the training, so that all ten fall into it.
            process.wait(timeout=seconds * moments.uniform(0.02, 0.1))
            break  # finished before it could be killed
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
    process, _ = start("cut")
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    expected, got = (torch.load(tmp_path / f"{name}.pt") for name in ("whole", "cut"))
    assert all(torch.equal(expected[key], got[key]) for key in expected)
    assert kills == 10, f"the training finished after {kills} kills: it ran much faster than the uncut one"


# --- compiling --------------------------------------------------------------------------------------------


def stand_in(failing):
    """A `torch.compile` whose result runs the module, draws random numbers and, as without Triton, fails then."""

    def compile(module):
        def call(*arguments):
            result = module(*arguments)
            torch.rand(1)
            if failing:
                raise RuntimeError("Cannot find a working triton installation.\nMore information")
            return result

        return call

    return compile


@pytest.mark.parametrize("failing", [True, False])
def test_what_cannot_be_compiled_runs_without_and_is_left_as_it_was(failing, monkeypatch):
    with training.forked_rng(0):
        net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout())
    before = {name: value.clone() for name, value in net.state_dict().items()}
    monkeypatch.setattr(torch, "compile", stand_in(failing))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        made = training.compiled(net, torch.ones(5, 3))
    assert (made is net) == failing
    assert [str(w.message) for w in said] == failing * [
        "torch.compile does not work here, training goes on without it "
        "(RuntimeError: Cannot find a working triton installation.)"
    ]
    assert net.training and all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())


@pytest.mark.slow
def test_without_a_c_compiler_nothing_is_compiled(tmp_path):
    code = """
import torch
from labutils.training import compiled
net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU())
made = compiled(net, torch.ones(5, 3))
assert made is net and made(torch.ones(2, 3)).sum().backward() is None
"""
    environment = {**os.environ, "CC": "/nonexistent", "CXX": "/nonexistent", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "torch.compile does not work here" in done.stderr


def test_progress_prints_plain_lines_when_not_a_terminal(capsys):
    with training.progress(3, "counting") as bar:
        bar.update(3)
    text = capsys.readouterr().err
    assert "counting: 100%" in text and text.endswith("\n")
    assert "\x1b" not in text and "\r" not in text


def test_progress_file_for_the_runner(tmp_path, monkeypatch):
    monkeypatch.setenv("LABUTILS_PROGRESS", str(tmp_path / "p"))
    with training.progress(3, "counting") as bar:
        bar.update(3)
    assert "counting" in (tmp_path / "p").read_text(encoding="utf-8")


def test_numpy_seeds_are_mixed_not_added():
    assert generator(0, 1).initial_seed() != generator(1, 0).initial_seed()
    assert np.unique([generator(s, i).initial_seed() for s in range(5) for i in range(5)]).size == 25
