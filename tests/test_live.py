"""Frames of a training: where they are shown, what they cost, and that they change nothing."""

from __future__ import annotations

import os
import signal
import sys
import warnings
from collections import Counter

import numpy as np
import pytest
import torch
from nbformat.v4 import new_code_cell, new_notebook
from torch import nn

from labutils import distributions, divergences, gan, live, plots, training, vae
from labutils.commands.run import this_python

g = training.generator
EMPTY = {"text/html": ""}  # what is left of a figure that went away


class Display:
    """In place of a notebook's front end: keeps what is shown."""

    def __init__(self):
        self.shown = []

    def __call__(self, image, **_):
        self.shown.append(image)
        return self

    def update(self, image, **_):
        self.shown.append(image)


@pytest.fixture
def front_end(monkeypatch):
    """Somebody looks, and a frame is due at every seventh step and near the end."""
    display, call = Display(), live._Frames.__call__

    def at_some(self, parts, history, done, total):
        if done % 7 == 1 or done > total - 3:
            call(self, parts, history, done, total)

    monkeypatch.setattr(live._Frames, "__call__", at_some)
    monkeypatch.setattr("IPython.display.display", display)
    monkeypatch.setenv("LABUTILS_LIVE", "1")
    monkeypatch.setattr(training, "in_kernel", lambda: True)
    monkeypatch.setattr(live, "in_kernel", lambda: True)
    monkeypatch.setattr(training, "progress", lambda *_, **__: training.tqdm(disable=True))
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda self, file, **_: file.write(b"a picture"))  # quick
    monkeypatch.setattr(live, "EVERY", 0.0)
    monkeypatch.setattr(live, "GUESS", 0.0)
    monkeypatch.setattr(live, "SHARE", float("inf"))
    return display


# --- trainings, small ------------------------------------------------------------------------------------


class Tiny(nn.Module):
    """An autoencoder and generator of 4×4 bits, with parts that evaluation treats otherwise than training."""

    latent = 2

    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = nn.Linear(16, 4), nn.Linear(2, 16)
        self.norm, self.held = nn.BatchNorm1d(16), nn.Dropout(0.5).eval()

    def encode(self, x):
        return self.encoder(self.norm(x.flatten(1))).chunk(2, dim=1)

    def decode(self, z):
        return self.held(self.decoder(z)).view(-1, 1, 4, 4)

    forward = decode


class TinyCritic(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(16, 3), nn.Tanh(), nn.Linear(3, 1))

    def forward(self, x):
        return self.layers(x).squeeze(1)


BITS = torch.randint(0, 2, (20, 1, 4, 4), generator=g(0, "bits"), dtype=torch.uint8)


def a_gan(**options):
    model, critic = (vae.initialise(make, 0) for make in (Tiny, TinyCritic))
    trained = gan.train(model, critic, 255 * BITS, gan.Recipe(batch_size=4), steps=60, **options)
    return (trained.average, model, critic), trained.history


def a_vae(decay=0.0, **options):
    model = vae.initialise(Tiny, 0)
    recipe = vae.Recipe(batch_size=4, decay=decay)
    history = vae.train(model, BITS, recipe, epochs=12, watch={"valid": BITS[:4]}, **options)
    return (model,), history


def an_averaged_vae(**options):
    return a_vae(decay=0.9, **options)


def discriminators():
    return (divergences.train_discriminator(P, Q, steps=60, batch_size=8),), None


def critics():
    return (divergences.train_critic(P, Q, steps=60, batch_size=8),), None


def a_density():
    return (divergences.train_discriminator(*LAWS, steps=60, batch_size=8, activation=nn.Tanh),), None


PHI = torch.tensor([-0.5, 0.0, 0.5]).repeat(2)
P, Q = divergences.line_samplers(PHI)
LAWS = tuple(
    lambda n, draw, law=law: law(n, draw, 1)
    for law in (distributions.sample_distribution4, distributions.sample_normal)
)
X = torch.linspace(-5, 5, 41, dtype=torch.float64)
F1 = distributions.distribution4_log_density(X).exp()
WATCHED = {
    a_gan: lambda: live.samples(3),
    a_vae: lambda: live.reconstructions(BITS[:8].float(), 3, logits=True),
    an_averaged_vae: lambda: live.reconstructions(2.0 * BITS[:8] - 1, 3),
    discriminators: lambda: live.jsd(P, Q, distributions.line_jsd(PHI)),
    critics: lambda: live.wasserstein(P, Q, distributions.line_wasserstein(PHI), PHI),
    a_density: lambda: live.density(X, distributions.normal_log_density(X), F1),
}
named = pytest.mark.parametrize("train", WATCHED, ids=lambda train: train.__name__)


def result(found):
    """Every bit of the networks, their modes and gradients, and what was logged."""
    networks, history = found
    states = [{name: value.numpy().tobytes() for name, value in network.state_dict().items()} for network in networks]
    modes = [[m.training for m in network.modules()] for network in networks]
    asked = [[p.requires_grad for p in network.parameters()] for network in networks]
    slopes = [[p.grad is not None and p.grad.numpy().tobytes() for p in network.parameters()] for network in networks]
    return states, modes, asked, slopes, history and history.rows


@named
def test_a_watched_training_gives_the_same_bits(train, front_end):
    before = result(train())
    assert not front_end.shown
    with WATCHED[train]():
        after = result(train())
    assert len(front_end.shown) == 9 + 2 + 1 and front_end.shown[-1] == EMPTY, "frames, and none in the end"
    assert after == before


@pytest.mark.parametrize("train", [a_gan, a_vae, an_averaged_vae], ids=lambda train: train.__name__)
def test_one_that_was_interrupted_goes_on_to_the_same_bits_and_leaves_its_last_frame(
    train, front_end, tmp_path, monkeypatch, capsys
):
    whole = result(train())
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt), WATCHED[train]():
        patch.setattr(live._Frames, "_show", lambda *_: os.kill(os.getpid(), signal.SIGINT))  # while it draws
        train(checkpoint=tmp_path / "c.pt")
    assert "interrupted after step 2 of 60; run the same again" in capsys.readouterr().err
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt), WATCHED[train]():
        patch.setattr(torch.optim.Adam, "step", interrupting(torch.optim.Adam.step, at=25))
        train(checkpoint=tmp_path / "c.pt")
    assert front_end.shown and EMPTY not in front_end.shown, "it stands"
    with WATCHED[train]():
        assert result(train(checkpoint=tmp_path / "c.pt")) == whole
    assert front_end.shown[-1] == EMPTY


def interrupting(real, at):
    calls = []

    def step(self, closure=None):
        calls.append(0)
        if len(calls) == at:
            os.kill(os.getpid(), signal.SIGINT)
        return real(self, closure)

    return step


# --- what frames show, and cost --------------------------------------------------------------------------


def frames(train, monkeypatch, **settings):
    """The figures that a training is shown in, as drawn."""
    drawn = []
    monkeypatch.setattr(live._Frames, "_show", lambda self, fig, alt: drawn.append((fig, alt)))
    for name, value in settings.items():
        monkeypatch.setattr(live, name, value)
    with WATCHED[train]():
        found = train()
    return drawn, found


@named
def test_a_frame_is_labelled_and_follows_the_training(train, front_end, monkeypatch):
    drawn, _ = frames(train, monkeypatch)
    (first, early), (fig, late) = drawn[0], drawn[-1]
    assert (early, late) == tuple(f"the training after {n} of 60 steps" for n in (1, 59))
    left, right = fig.axes
    assert left.get_title("left") and left.get_ylabel() and right.get_title("left") and left.get_xlabel() == "step"
    assert left.get_xlim() == (0, 60) and list(left.lines[0].get_xdata()) == [50]
    assert not len(first.axes[0].lines) or not len(first.axes[0].lines[0].get_xdata()), "nothing is logged yet"

    def picture(ax):
        return ax.images[0].get_array() if ax.images else ax.lines[1].get_ydata()

    assert not np.array_equal(picture(first.axes[1]), picture(right)), "the model has moved"
    assert fig.get_size_inches().tolist() == [7.5, 2.5]


def test_samples_are_of_the_average_from_the_same_codes(front_end, monkeypatch):
    drawn, ((average, *_), _) = frames(a_gan, monkeypatch)
    z = torch.randn(32, 2, generator=g(3, "live"))
    # One step lies between the last frame and the end, and the average hardly moves in it.
    expected = plots.tile((average(z).detach().clamp(-1, 1) + 1) / 2, 8)
    assert np.abs(drawn[-1][0].axes[1].images[0].get_array() - expected).max() < 0.002
    moved = np.abs(drawn[-2][0].axes[1].images[0].get_array() - drawn[-1][0].axes[1].images[0].get_array()).max()
    assert 0 < moved < 0.002, "other codes would change everything"


@pytest.mark.parametrize("train", [a_gan, a_vae, an_averaged_vae], ids=lambda train: train.__name__)
def test_the_averaged_weights_are_drawn_where_there_are_any(train, front_end):
    drawn = []
    with live.figure(lambda model, *_: drawn.append(model)), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nothing is a picture here
        (model, *_), _ = train()
    assert [any(p.requires_grad for p in found.parameters()) for found in drawn] == [train is a_vae]
    assert (drawn[0] is model) == (train is not an_averaged_vae)


def test_reconstructions_and_curves_are_the_models_own(front_end, monkeypatch):
    drawn, ((model,), history) = frames(a_vae, monkeypatch)
    left, right = drawn[-1][0].axes
    assert [t.get_text() for t in right.get_yticklabels()] == ["images", "rebuilt", "samples"]
    canvas = right.images[0].get_array()
    assert np.array_equal(canvas[:4], plots.tile(BITS[:8].float(), 8))
    with torch.no_grad():
        rebuilt = torch.sigmoid(model.eval().decode(model.encode(BITS[:8].float())[0]))
    assert np.abs(canvas[6:10] - plots.tile(rebuilt, 8)).max() < 0.02 < 0.1 * np.ptp(rebuilt.numpy())
    row = next(row for row in history.rows if "kl" in row)
    assert left.lines[0].get_ydata().tolist() == [row["reconstruction"] - row["kl"]]
    assert left.lines[1].get_ydata().tolist() == history.column("valid_elbo")[1][:-1].tolist()


@pytest.mark.filterwarnings("ignore:critic")  # untrained, it says
def test_estimates_are_those_of_samples_held_out(front_end, monkeypatch):
    for train, exact, at in ((discriminators, distributions.line_jsd(PHI), range(1, 7)), (critics, PHI.abs(), PHI)):
        monkeypatch.setattr(torch.optim.Adam, "step", lambda *_: None)  # what is estimated is then known
        drawn, ((net,), _) = frames(train, monkeypatch)
        marks = drawn[-1][0].axes[1].lines
        assert np.allclose(marks[0].get_ydata(), exact) and np.array_equal(marks[1].get_xdata(), at)
        if train is discriminators:
            expected = divergences.estimate_jsd(net, P, Q, n=20_000)
            reach = 0.03
        else:
            expected = [e.corrected for e in divergences.estimate_wasserstein(net, P, Q, n=20_000)]
            reach = 0.3
        assert np.allclose(marks[1].get_ydata(), [e.value for e in expected], atol=reach)


def slow(monkeypatch, cost, seconds, step=0.05, **settings):
    """Moments at which a training of so many seconds shows frames that take `cost` each, under a clock of its own."""
    now, moments = [100.0], []
    monkeypatch.setattr(live.time, "monotonic", lambda: now[0])
    for name, value in settings.items():
        monkeypatch.setattr(live, name, value)

    def draw(*_):
        moments.append(now[0] - 100)
        now[0] += cost

    monkeypatch.setattr(live._Frames, "_show", lambda *_: None)
    shown = live._Frames(draw)
    while now[0] < 100 + seconds:
        now[0] += step
        shown({"net": nn.Identity()}, training.History(), 1, 2)
    return np.array(moments)


@pytest.mark.parametrize("cost", [0.02, 0.1, 1.0, 5.0])
def test_frames_keep_to_their_share_of_the_time(cost, monkeypatch):
    moments = slow(monkeypatch, cost, seconds=1000)
    spent = cost * np.arange(1, len(moments) + 1)
    within = spent <= 0.0201 * (moments + cost)
    assert within[1:].all(), "the first one's cost was not known"
    assert moments[0] < 6 and np.diff(moments).min() >= 3
    assert len(moments) > 0.9 * min(1000 / (3.1 + cost), 0.02 * 1000 / cost - 1), "and they use it"


def test_a_short_training_has_no_frames(monkeypatch):
    assert not len(slow(monkeypatch, 0.1, seconds=4.9)) and len(slow(monkeypatch, 0.1, seconds=5.2)) == 1


def test_what_goes_wrong_in_a_frame_is_said_once_and_the_training_goes_on(front_end):
    before = result(a_gan())

    def draw(*_):
        raise OSError("no font")

    with warnings.catch_warnings(record=True) as said, live.figure(draw):
        warnings.simplefilter("always")
        assert result(a_gan()) == before
    assert [str(w.message) for w in said] == ["no more frames of this training (OSError: no font)"]
    assert not front_end.shown


# --- where they are shown --------------------------------------------------------------------------------


@named
def test_without_a_kernel_nothing_is_drawn(train, monkeypatch):
    for name in ("LABUTILS_LIVE", "LABUTILS_RUN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(live, "_Frames", lambda *_: pytest.fail("a frame"))
    with WATCHED[train]():
        train()


def test_the_word_in_the_environment_is_checked(monkeypatch):
    monkeypatch.setenv("LABUTILS_LIVE", "yes")
    with pytest.raises(ValueError, match="LABUTILS_LIVE is 'yes'; expected 1 to show trainings"), live.samples():
        pass


CELL = """
import sys, types
from labutils import live, networks, gan, vae
import torch
live.EVERY, live.GUESS, live.SHARE = 0.0, 0.0, float("inf")
class Generator(torch.nn.Linear):
    latent = 2
    def forward(self, z):
        return super().forward(z).view(-1, 3, 4, 4)
def critic():
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 1), torch.nn.Flatten(0))
images = torch.zeros(8, 3, 4, 4, dtype=torch.uint8)
with live.samples():
    gan.train(Generator(2, 48), critic(), images, gan.Recipe(batch_size=4), steps=6)
print("done")
"""


@pytest.fixture(scope="module")
def kernel():
    """A kernel, and what it sends while it runs a request with this metadata: (type, content) of each message."""
    from jupyter_client.manager import KernelManager

    manager = KernelManager(kernel_name="python3")
    manager.kernel_spec.argv[0] = sys.executable
    manager.start_kernel()
    client = manager.client()
    client.start_channels()
    client.wait_for_ready(timeout=60)

    def messages(code, metadata):
        content = {"code": code, "silent": False, "store_history": True, "user_expressions": {}}
        content |= {"allow_stdin": False, "stop_on_error": True}
        request = client.session.msg("execute_request", content, metadata=metadata)
        client.shell_channel.send(request)
        found = []
        while True:
            message = client.get_iopub_msg(timeout=120)
            if message["parent_header"].get("msg_id") == request["header"]["msg_id"]:
                found.append((message["msg_type"], message["content"]))
                if message["content"].get("execution_state") == "idle":
                    return found

    yield messages
    client.stop_channels()
    manager.shutdown_kernel(now=True)


LAB = {"JPY_SESSION_NAME": "/notebooks/problem3.ipynb"}
COLAB = "import types; sys.modules['google.colab'] = types.ModuleType('google.colab')"
ENVIRONMENT = """import os, sys
sys.modules.pop("google.colab", None)
for name in ("LABUTILS_LIVE", "LABUTILS_RUN", "JPY_SESSION_NAME", "VSCODE_PID"):
    os.environ.pop(name, None)
os.environ.update({})
"""


@pytest.mark.parametrize(
    ("environment", "metadata", "before", "count"),
    [
        (LAB, {"cellId": "c11", "deletedCells": [], "recordTiming": False}, "", 5),  # JupyterLab, Notebook 7
        ({}, {"cellId": "vscode-notebook-cell:/problem3.ipynb#X1"}, "", 5),
        ({}, {}, COLAB, 5),
        ({"LABUTILS_LIVE": "1"}, {}, "", 5),
        (LAB | {"VSCODE_PID": "1"}, {}, "", 0),  # nbclient, papermill or nbval, started from a cell or in VS Code
        ({"LABUTILS_RUN": "1", "LABUTILS_LIVE": "1"}, {}, COLAB, 0),  # `!labutils run` on Colab
        (LAB | {"LABUTILS_LIVE": "0"}, {"cellId": "c11"}, "", 0),
    ],
    ids=["lab", "vscode", "colab", "asked", "papermill", "run", "declined"],
)
def test_a_kernel_shows_frames_to_those_who_can_see_them(environment, metadata, before, count, kernel):
    found = kernel(ENVIRONMENT.format(environment) + before + CELL, metadata)
    errors = [content for kind, content in found if kind == "error"]
    assert not errors, errors
    pictures = [(kind, content) for kind, content in found if "image/png" in content.get("data", {})]
    assert Counter(kind for kind, _ in pictures) == Counter(
        {"display_data": 1, "update_display_data": count - 1} if count else {}
    )
    if count:
        ids = {content["transient"]["display_id"] for _, content in pictures}
        last = [content for kind, content in found if kind == "update_display_data"][-1]
        assert len(ids) == 1 and last["data"] == EMPTY and last["transient"]["display_id"] in ids, "cleared at its end"
        assert pictures[0][1]["metadata"]["image/png"] == {"width": 750, "alt": "the training after 1 of 6 steps"}


def test_a_notebook_executed_without_a_front_end_has_the_outputs_it_had(monkeypatch):
    from nbclient import NotebookClient

    monkeypatch.delenv("LABUTILS_LIVE", raising=False)
    for name, value in LAB.items():  # inherited from the cell that started it
        monkeypatch.setenv(name, value)
    without = CELL.replace("with live.samples():", "if True:")
    notebook = new_notebook(cells=[new_code_cell(cell) for cell in (CELL, without)])
    NotebookClient(notebook, timeout=120, kernel_manager_class=this_python()).execute()
    here, there = ([(o.output_type, list(o.get("data", {}))) for o in cell.outputs] for cell in notebook.cells)
    assert here == there and ("stream", []) in here
