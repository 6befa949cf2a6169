"""Seeds, devices, the training loop and its checkpoints.

Randomness is a function of (seed, what it is for, index), never of what ran before: step 1,234 draws the
same noise whether the run got there in one go or was killed and resumed three times. That makes resuming
exact by construction, and leaves the caller's global random state alone.
"""

from __future__ import annotations

import contextlib
import copy
import ctypes
import errno
import math
import os
import signal
import sys
import time
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor, nn
from tqdm import tqdm


class TrainingDiverged(RuntimeError):
    """A logged quantity became NaN or infinite; the message names it and the step."""


class CheckpointMismatch(RuntimeError):
    """A checkpoint belongs to another recipe; the message names what differs."""


# --- randomness and devices -------------------------------------------------------------------------


def generator(seed: int, *path: int | str, device: str | torch.device = "cpu") -> torch.Generator:
    """A `torch.Generator` for one purpose: `generator(0, "noise", 17)` is always the same stream.

    The numbers of `path` (and the CRC of its strings) are mixed with `seed` by NumPy's SeedSequence, so
    that neighbouring indices give unrelated streams.
    """
    keys = [zlib.crc32(p.encode()) if isinstance(p, str) else int(p) for p in path]
    state = np.random.SeedSequence([int(seed), *keys]).generate_state(1, np.uint64)[0]
    return torch.Generator(device=device).manual_seed(int(state >> np.uint64(1)))


@contextlib.contextmanager
def forked_rng(seed: int, *path: int | str) -> Iterator[None]:
    """Seed torch's global generators inside the block (initialisation, dropout) and restore them after."""
    with torch.random.fork_rng():
        torch.manual_seed(generator(seed, *path).initial_seed())
        yield


def pick_device(name: str = "auto") -> torch.device:
    """`auto` (CUDA where there is one), `cpu` or `cuda`; ValueError for anything else or a missing GPU."""
    if name not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device is {name!r}; choose 'auto', 'cpu' or 'cuda'")
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("device is 'cuda' but torch sees no CUDA device; use 'auto' or 'cpu'")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def compiled(module: nn.Module, *example: Tensor) -> Callable[..., Tensor]:
    """`module` through `torch.compile`, tried once on `example`; where that fails, the module itself, with a warning.

    It fails at its first call: on a GPU without Triton, on any device without a C compiler. Weights, running
    statistics and the caller's random state stay as they were.
    """
    before = copy.deepcopy(module.state_dict())
    try:
        with torch.random.fork_rng(), torch.no_grad():
            fast = torch.compile(module)
            fast(*example)
        return fast
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        warnings.warn(f"torch.compile does not work here, training goes on without it ({reason})", stacklevel=2)
        return module
    finally:
        module.load_state_dict(before)


def keep_freed_memory() -> None:
    """Let the C library keep freed buffers (Linux; elsewhere nothing happens).

    Otherwise each step hands its activations back to the system and takes them again, page by page: 3,000 page
    faults a step of problem 2, a tenth of its time.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):
        c = ctypes.CDLL(None)
        c.mallopt(-3, 32 << 20)  # M_MMAP_THRESHOLD, at its maximum
        c.mallopt(-1, 1 << 30)  # M_TRIM_THRESHOLD


class Batches:
    """Row numbers of each step's minibatch: every epoch is a fresh permutation of all `n` rows.

    The last batch of an epoch holds what is left. `batches(step)` depends on (seed, step) only.
    """

    def __init__(self, n: int, batch_size: int, seed: int):
        if not 1 <= batch_size <= n:
            raise ValueError(f"batch_size is {batch_size}; expected 1 to {n}, the number of rows")
        self.n, self.batch_size, self.seed = n, batch_size, seed
        self.per_epoch = math.ceil(n / batch_size)
        self._epoch, self._order = -1, torch.empty(0, dtype=torch.long)

    def __call__(self, step: int) -> Tensor:
        epoch, k = divmod(step, self.per_epoch)
        if epoch != self._epoch:
            self._order = torch.randperm(self.n, generator=generator(self.seed, "order", epoch))
            self._epoch = epoch
        return self._order[k * self.batch_size : (k + 1) * self.batch_size]


# --- progress ---------------------------------------------------------------------------------------


class _CellLine:
    """Where tqdm writes inside a notebook: one line of the output cell, replaced in place."""

    def __init__(self) -> None:
        from IPython.display import display

        self.handle = display({"text/plain": ""}, raw=True, display_id=True)

    def write(self, text: str) -> None:
        if text := text.strip("\r\n "):
            self.handle.update({"text/plain": text}, raw=True)

    def flush(self) -> None:
        pass


class _PlainLines:
    """Where tqdm writes outside a terminal, a log file say: whole lines, no carriage returns."""

    def write(self, text: str) -> None:
        if text := text.strip("\r\n "):
            sys.stderr.write(text + "\n")

    def flush(self) -> None:
        sys.stderr.flush()


class _Relay:
    """Copies each state of the bar into the file `labutils run` watches (LABUTILS_PROGRESS)."""

    def __init__(self, stream, path: Path):
        self.stream, self.path = stream, path

    def write(self, text: str) -> None:
        self.stream.write(text)
        if text.strip():
            with contextlib.suppress(OSError):  # a progress line is never worth a failed training
                self.path.write_text(text.strip("\r\n "), encoding="utf-8")

    def flush(self) -> None:
        self.stream.flush()


def progress(total: int, desc: str, initial: int = 0) -> tqdm:
    """One progress bar: in place in a notebook or a terminal, a plain line every 30 s anywhere else."""
    kernel, terminal = in_kernel(), sys.stderr.isatty()
    stream: Any = _CellLine() if kernel else sys.stderr if terminal else _PlainLines()
    if path := os.environ.get("LABUTILS_PROGRESS"):
        stream = _Relay(stream, Path(path))
    return tqdm(
        total=total,
        desc=desc,
        initial=initial,
        file=stream,
        ncols=None if terminal and not kernel else 96,
        mininterval=0.5 if kernel or terminal else 30.0,
        bar_format="{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]",
    )


def in_kernel() -> bool:
    """Whether this is a notebook's kernel, whoever asks it to execute."""
    if "ipykernel" not in sys.modules:
        return False
    from IPython import get_ipython

    shell = get_ipython()
    return shell is not None and hasattr(shell, "kernel")


# --- checkpoints ------------------------------------------------------------------------------------


def write_whole(path: Path, content: str | bytes) -> None:
    """Replace a file in one step: whoever reads it, or kills the writer, finds the old one or the new one."""
    part = path.with_name(path.name + ".part")
    part.write_bytes(content.encode() if isinstance(content, str) else content)
    os.replace(part, path)


@contextlib.contextmanager
def locked(path: Path, timeout: float = 60.0) -> Iterator[None]:
    """Hold the lock of a file that several processes read, change and write back: `.NAME.lock`, beside it.

    It ends with the process that holds it. Raises filelock.Timeout after `timeout` seconds.
    """
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(FileLock(path.with_name(f".{path.name}.lock")).acquire(timeout))
        except NotImplementedError:
            pass
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP):  # a file system without locks
                raise
        yield


def save_checkpoint(path: Path, content: Mapping[str, Any], keep: Path | None = None) -> None:
    """Write tensors, numbers, strings and containers of them; a kill at any moment leaves old or new.

    keep: under which name the file that was there stays.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    with open(part, "wb") as file:
        torch.save(dict(content), file)
        file.flush()
        os.fsync(file.fileno())
    if keep is not None and path.exists():
        os.replace(path, keep)
    os.replace(part, path)


def load_checkpoint(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read what `save_checkpoint` wrote. Only tensors and plain values: nothing in it can execute.

    Raises ValueError naming the file when it is damaged, by so much as a bit.
    """
    try:
        with zipfile.ZipFile(path) as parts:  # torch writes their checksums and does not look at them
            if damaged := parts.testzip():
                raise zipfile.BadZipFile(f"checksum of {damaged}")
        return torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as error:
        raise ValueError(
            f"checkpoint {path} cannot be read ({type(error).__name__}); move it away to start this training again"
        ) from error


# --- the loop ---------------------------------------------------------------------------------------


class History:
    """What a training logged: rows such as {"step": 50, "loss": 120.3}."""

    def __init__(self, rows: list[dict[str, Any]] | None = None, seconds: float = 0.0):
        self.rows, self.seconds = rows or [], seconds

    def column(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """(steps, values) of every row that has `name`; KeyError naming the known ones if none has."""
        rows = [r for r in self.rows if name in r]
        if not rows:
            known = sorted({key for row in self.rows for key in row} - {"step"})
            raise KeyError(f"history has no {name!r}; it has {', '.join(known) or 'nothing yet'}")
        return np.array([r["step"] for r in rows]), np.array([r[name] for r in rows])


Watch = Callable[[Mapping[str, Any], History, int, int], None]  # parts, history so far, steps done, steps in all
_watch: ContextVar[Watch] = ContextVar("watch", default=lambda *_: None)


@contextlib.contextmanager
def watching(watch: Watch) -> Iterator[None]:
    """Every `fit` inside the block calls `watch` after each step. It may look and take its time, but change nothing."""
    token = _watch.set(watch)
    try:
        yield
    finally:
        _watch.reset(token)


@contextlib.contextmanager
def _interrupts_held() -> Iterator[Callable[[], bool]]:
    """Ctrl-C, or a kernel's interrupt, waits until it is asked for; a second one comes through at once.

    In the middle of a step some weights are new and some old: nothing that an exact resume could start from.
    """
    before, asked = signal.getsignal(signal.SIGINT), []

    def hold(number: int, frame: Any) -> None:
        if asked:
            before(number, frame)
        asked.append(number)

    try:
        held = callable(before) and bool(signal.signal(signal.SIGINT, hold))
    except ValueError:  # signals reach the main thread alone
        held = False
    try:
        yield lambda: bool(asked)
    finally:
        if held:
            signal.signal(signal.SIGINT, before)


def _say_where_it_stopped(desc: str, done: int, total: int, checkpoint: Path | None) -> None:
    kept = "nothing was kept" if checkpoint is None else f"run the same again and it goes on from there ({checkpoint})"
    print(f"{desc}: interrupted after step {done:,} of {total:,}; {kept}", file=sys.stderr)


def fit(
    step: Callable[[int], Mapping[str, Tensor]],
    total_steps: int,
    *,
    parts: Mapping[str, Any],
    recipe: Mapping[str, Any],
    checkpoint: Path | None = None,
    evaluate: Callable[[], Mapping[str, float]] | None = None,
    evaluate_every: int = 0,
    log_every: int = 50,
    save_every_s: float = 20.0,
    desc: str = "training",
) -> History:
    """Run `step(0) … step(total_steps − 1)`, logging, evaluating, and resuming where a killed run stopped.

    step: does one optimisation step and returns scalars to log, not the same ones at every step; its randomness comes
        from `generator` with the step's number, so that a resumed run repeats it exactly.
    parts: everything with `state_dict`/`load_state_dict` that changes: model, optimiser, schedule, average.
    recipe: plain values that determine the result. They are stored with the checkpoint; a different recipe
        raises CheckpointMismatch naming the difference instead of continuing another run's weights.
    evaluate: called after every `evaluate_every` steps and after the last; its row joins the history.
    save_every_s: seconds between checkpoints; one is also written after each evaluation.

    Raises TrainingDiverged naming quantity and step at the first value that is not finite. An interrupt ends it, with
    KeyboardInterrupt, after the step that it came in, which the checkpoint then has; a second one ends it at once.
    """
    keep_freed_memory()
    if total_steps < 1:
        raise ValueError(f"total_steps is {total_steps}; expected at least 1")
    recipe = {**recipe, "total_steps": total_steps}
    history, start, pending = History(), 0, []
    if checkpoint is not None:
        history, start, pending = _resume(Path(checkpoint), parts, recipe)
    clock = time.monotonic() - history.seconds
    saved_at = time.monotonic()

    def save(done: int) -> None:
        if checkpoint is not None:
            states = {name: part.state_dict() for name, part in parts.items()}
            content = {"done": done, "recipe": recipe, "parts": states, "rows": history.rows, "pending": pending}
            _save(Path(checkpoint), content | {"seconds": history.seconds}, last=done == total_steps)

    if start == total_steps:
        return history
    with progress(total_steps, desc, initial=start) as bar, _interrupts_held() as interrupted:
        unread: list[Mapping[str, Tensor]] = []  # values still on the device: reading them makes a GPU wait
        for i in range(start, total_steps):
            unread.append({name: value.detach() for name, value in step(i).items()})
            done, stop = i + 1, interrupted()
            last = done == total_steps
            log = done % log_every == 0 or last
            test = evaluate is not None and (last or (evaluate_every > 0 and done % evaluate_every == 0))
            save_now = last or test or stop or time.monotonic() - saved_at > save_every_s
            if log or save_now:
                pending += _read(unread, first_step=done - len(unread))
                unread = []
            if log:
                names = dict.fromkeys(name for row in pending for name in row)
                means = {k: float(np.mean([row[k] for row in pending if k in row])) for k in names}
                history.rows.append({"step": done} | means)
                pending = []
                first = next(iter(names))
                bar.set_postfix_str(f"{first} {history.rows[-1][first]:.4g}", refresh=False)
            if test:
                history.rows.append({"step": done} | {k: float(v) for k, v in evaluate().items()})
            bar.update()
            history.seconds = time.monotonic() - clock
            if save_now:
                save(done)
                saved_at = time.monotonic()
            if stop:
                _say_where_it_stopped(desc, done, total_steps, checkpoint)
                raise KeyboardInterrupt
            _watch.get()(parts, history, done, total_steps)
    return history


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, decay: float, step: int) -> None:
    """average ← d·average + (1 − d)·model, weight by weight, d = min(decay, (step + 1)/(step + 10)).

    The smaller d of the first steps lets the average forget the initial weights (as in TensorFlow's
    ExponentialMovingAverage).
    """
    d = min(decay, (step + 1) / (step + 10))
    for a, b in zip(average.parameters(), model.parameters(), strict=True):
        a.lerp_(b, 1 - d)


def _read(rows: list[Mapping[str, Tensor]], first_step: int) -> list[dict[str, float]]:
    values = [{name: float(value) for name, value in row.items()} for row in rows]
    for i, row in enumerate(values):
        for name, value in row.items():
            if not math.isfinite(value):
                raise TrainingDiverged(
                    f"{name} is {value} at step {first_step + i}; lower the learning rate, or look at that "
                    "step's batch for values that are not finite. The last checkpoint is from before it."
                )
    return values


def previous(checkpoint: Path) -> Path:
    """Where the checkpoint before the last one lies while a training is under way."""
    return checkpoint.with_name(f"{checkpoint.stem}.previous{checkpoint.suffix}")


def _save(path: Path, content: Mapping[str, Any], last: bool) -> None:
    """Under way the checkpoint before this one is kept as well: a file may be damaged by more than a kill."""
    save_checkpoint(path, content, keep=previous(path))
    if last:
        previous(path).unlink(missing_ok=True)


def _resume(path: Path, parts: Mapping[str, Any], recipe: Mapping[str, Any]) -> tuple[History, int, list]:
    """History, steps done and what was logged since its last row, from the newest checkpoint that can be read."""
    there = [file for file in (path, previous(path)) if file.exists()]
    if not there:
        return History(), 0, []
    try:
        return _restore(there[0], parts, recipe)
    except CheckpointMismatch:
        raise
    except ValueError as error:
        if len(there) == 1:
            raise
        found = _restore(there[1], parts, recipe)
        print(f"{error}: going on from the one before it, after step {found[1]:,}", file=sys.stderr)
        return found


def _restore(path: Path, parts: Mapping[str, Any], recipe: Mapping[str, Any]) -> tuple[History, int, list]:
    content = load_checkpoint(path)
    if not isinstance(content, dict) or {"recipe", "parts", "rows", "seconds", "done", "pending"} - content.keys():
        raise ValueError(f"{path} is no checkpoint of a training; move it away to start this training again")
    theirs = content["recipe"]
    different = [
        f"{k}: {theirs.get(k, 'absent')!r} there, {recipe.get(k, 'absent')!r} here"
        for k in sorted({*theirs, *recipe})
        if theirs.get(k) != recipe.get(k)
    ]
    if different:
        raise CheckpointMismatch(
            f"checkpoint {path} was trained with another recipe ({'; '.join(different)}); "
            "choose another output folder, or move the file away to start again"
        )
    if not 0 < content["done"] <= recipe["total_steps"]:
        done = f"{content['done']} of {recipe['total_steps']} steps"
        raise ValueError(f"checkpoint {path} has done {done}; move it away to start this training again")
    try:
        for name, part in parts.items():
            part.load_state_dict(content["parts"][name])
    except (KeyError, RuntimeError, ValueError, TypeError) as error:
        what = f"{type(error).__name__}: {error}".splitlines()[0]
        raise CheckpointMismatch(
            f"checkpoint {path} is of another network ({what}); choose another output folder, or move it away"
        ) from error
    return History(content["rows"], content["seconds"]), content["done"], content["pending"]
