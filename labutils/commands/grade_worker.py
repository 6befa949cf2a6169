"""The process in which answers run: `labutils grade` starts it as a program of its own, apart from `labutils`.

It imports torch once and forks a process for every exercise of every student, so that what an answer does ends with
it. Where Linux lets it, the whole program first moves into namespaces of its own: no network, and of the file system
only Python and the libraries, read only. Each answer then gets an empty folder, processes that nobody outlives, and
limits on time, memory, processes and the size of files. Elsewhere the limits are all there is; `confine` says which.

It talks in frames over stdin and stdout: pickles come in, from the grader alone; out goes plain data.
"""

from __future__ import annotations

import ast
import contextlib
import ctypes
import gc
import importlib
import io
import json
import marshal
import os
import pickle
import resource
import select
import signal
import struct
import sys
import time
import traceback
import types

MiB = 2**20
PROCESSES = 16  # of an answer, at a time
FILES = 16 * MiB  # largest file, printed output among them
FOLDER = 64 * MiB  # everything an answer may leave in its folder
RESULTS = 32 * MiB  # everything it may return
PLACE = "/labutils-answer"  # the folder an answer finds itself in, a name that hides nothing else
NEW_MOUNTS, NEW_USER, NEW_PROCESSES, NEW_NETWORK, NEW_IPC = 0x20000, 0x10000000, 0x20000000, 0x40000000, 0x08000000
NO_NEW_PRIVILEGES, DIE_WITH_PARENT = 38, 1
MOUNT_SETATTR, BIND, RECURSIVE, PRIVATE = 442, 0x1000, 0x4000, 0x40000


# --- frames ------------------------------------------------------------------------------------------------


def write(stream, kind: bytes, part: int, content: bytes) -> None:
    stream.write(struct.pack("<1sIQ", kind, part, len(content)) + content)
    stream.flush()


def read(stream) -> tuple[bytes, int, bytes] | None:
    """The next frame; None at the end, also where it is cut short."""
    head = stream.read(13)
    if len(head) < 13:
        return None
    kind, part, length = struct.unpack("<1sIQ", head)
    content = stream.read(min(length, RESULTS))
    return (kind, part, content) if len(content) == length else None


# --- walls -------------------------------------------------------------------------------------------------


class Libc:
    """Calls of the C library that raise OSError when they fail."""

    def __init__(self) -> None:
        self.library = ctypes.CDLL(None, use_errno=True)

    def __getattr__(self, name: str):
        def call(*arguments) -> None:
            plain = [a.encode() if isinstance(a, str) else a for a in arguments]
            if getattr(self.library, name)(*plain) < 0:
                code = ctypes.get_errno()
                raise OSError(code, f"{name}: {os.strerror(code)}")

        return call


def confine(setting: dict) -> str:
    """Leave network and file system behind, for this process and all it forks. Returns why not; empty when it has."""
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")  # where memory runs out, an answer goes first
    if not sys.platform.startswith("linux"):
        return f"{sys.platform} has no namespaces"
    if setting["plain"]:
        return "not asked for"
    libc, user, group = Libc(), os.getuid(), os.getgid()
    try:
        libc.unshare(NEW_MOUNTS | NEW_NETWORK | NEW_IPC | (NEW_USER if user else 0))
        if user:
            for name, text in ("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1"):
                with open(f"/proc/self/{name}", "w") as file:
                    file.write(text)
        libc.mount("none", "/", None, RECURSIVE | PRIVATE, None)
        _small_world(libc, setting)
    except (OSError, AttributeError) as error:
        return str(error)
    return ""


def _small_world(libc: Libc, setting: dict) -> None:
    """A root that holds what Python needs, read only, and one folder for the answers."""
    root = setting["root"]
    libc.mount("none", root, "tmpfs", 0, "size=1m,mode=755")
    shown: list[str] = []
    for place in sorted(filter(os.path.exists, map(os.path.abspath, setting["shown"]))):
        if any(place == above or place.startswith(above + "/") for above in shown):
            continue
        target = root + place
        os.makedirs(os.path.dirname(target), exist_ok=True)
        if os.path.islink(place):
            os.symlink(os.readlink(place), target)
            continue
        if os.path.isdir(place):
            os.makedirs(target, exist_ok=True)
        else:
            open(target, "w").close()
        libc.mount(place, target, None, BIND | RECURSIVE, None)
        if not place.startswith("/dev/"):
            _read_only(libc, target)
        shown.append(place)
    for place in setting["hidden"]:
        if os.path.isdir(root + place):
            libc.mount("none", root + place, "tmpfs", 0, "size=0,mode=755")
    for name in (PLACE, "/tmp"):
        os.makedirs(root + name, exist_ok=True)
    _read_only(libc, root, recursive=False)
    os.chroot(root)
    os.chdir(PLACE)


def _read_only(libc: Libc, target: str, recursive: bool = True) -> None:
    attributes = (ctypes.c_uint64 * 4)(1, 0, 0, 0)  # set: read only
    libc.syscall(MOUNT_SETATTR, -1, target, 0x8000 if recursive else 0, ctypes.byref(attributes), 32)


def _limit(setting: dict, account: int) -> None:
    """Limits of this process and its children, an account of its own where that can be had, and no way back."""
    limits = {
        "AS": setting["size"] + setting["memory"] * MiB,
        "CPU": (setting["seconds"], setting["seconds"] + 1),
        "FSIZE": FILES,
        "CORE": 0,
        "NOFILE": 128,
        "NPROC": PROCESSES + setting["processes"],
    }
    for name, limit in limits.items():
        pair = limit if isinstance(limit, tuple) else (limit, limit)
        with contextlib.suppress(OSError, ValueError):  # a hard limit below it stays
            resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), pair)
    if os.getuid() == 0:  # an account that nobody has: it owns no file, and its processes are counted alone
        os.setgroups([])
        os.setgid(account)
        os.setuid(account)
    if sys.platform.startswith("linux"):
        libc = Libc()
        libc.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0)
        libc.capset((ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)())
        libc.prctl(DIE_WITH_PARENT, signal.SIGKILL, 0, 0, 0)


# --- an answer ---------------------------------------------------------------------------------------------


def rebuild(shipped: dict) -> list:
    """The functions that ask an answer, from plain data (`grade_process.ship`); in the order of the parts."""
    modules: dict[str, dict] = {}
    functions: list = []
    classes: list = [None] * len(shipped["classes"])

    def value(reference):
        kind, what = reference
        if kind == "function":
            return functions[what]
        if kind == "class":
            if classes[what] is None:
                entry = shipped["classes"][what]
                classes[what] = type(entry["name"], value(entry["bases"]), value(entry["members"]))
            return classes[what]
        if kind == "module":
            return importlib.import_module(what)
        if kind == "name":
            found = importlib.import_module(what[0])
            for name in what[1].split("."):
                found = getattr(found, name)
            return found
        if kind in ("tuple", "list"):
            return (tuple if kind == "tuple" else list)(map(value, what))
        if kind == "dict":
            return {key: value(item) for key, item in what}
        return what

    for entry in shipped["functions"]:
        scope = modules.setdefault(entry["module"], {"__builtins__": __builtins__, "__name__": entry["module"]})
        cells = tuple(types.CellType() for _ in entry["closure"])
        functions.append(types.FunctionType(marshal.loads(entry["code"]), scope, entry["name"], None, cells))
    for function, entry in zip(functions, shipped["functions"], strict=True):
        function.__defaults__, function.__kwdefaults__ = value(entry["defaults"]), value(entry["keywords"])
        for cell, reference in zip(function.__closure__ or (), entry["closure"], strict=True):
            cell.cell_contents = value(reference)
        modules[entry["module"]].update({name: value(reference) for name, reference in entry["globals"].items()})
    return [value(reference) for reference in shipped["roots"]]


def define(statements: list[tuple[str, ast.stmt]]) -> tuple[dict, list[str]]:
    """Execute the statements in a fresh module; those that fail are tried once more at the end.

    Returns its names, and the errors of those that failed twice.
    """
    import torch

    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    space = module.__dict__
    space.update(torch=torch, nn=torch.nn, F=torch.nn.functional, math=importlib.import_module("math"))
    space["np"] = importlib.import_module("numpy")
    failed = list(statements)
    for _ in range(2):
        tried, failed, errors = failed, [], []
        for cell, node in tried:
            try:
                exec(compile(ast.Module([node], []), cell, "exec"), space)
            except BaseException as error:
                failed.append((cell, node))
                errors.append(f"{cell}: {describe(error)}")
    return space, errors


def describe(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}"[:500] if lines else type(error).__name__


def place(error: BaseException) -> str:
    """Where in the notebook: the innermost line that is a cell's."""
    lines = [f"{f.filename}, line {f.lineno}" for f in traceback.extract_tb(error.__traceback__)]
    return next((line for line in reversed(lines) if line.startswith("code cell ")), "")


def answer(job: dict, pipe) -> None:
    """Ask an answer, part by part: a frame for each, a tensor as safetensors or an error as text."""
    import safetensors.torch
    import torch

    calls = rebuild(job["calls"])
    space, errors = define(job["statements"])
    space.update({name: rebuild(shipped)[0] for name, shipped in job["right"].items()})
    write(pipe, b"n", 0, json.dumps(errors[:5]).encode())
    functions = {name: space[name] for name in job["functions"] if name in space}
    for name in job["functions"]:
        if name not in functions:
            functions[name] = _missing(name)
    for k, (call, inputs) in enumerate(zip(calls, job["inputs"], strict=True)):
        asked = False
        try:
            value = call(functions, inputs)
            asked = True
            value = torch.as_tensor(value).detach().double().cpu().contiguous().clone()
            write(pipe, b"v", k, safetensors.torch.save({"value": value}))
        except BaseException as error:
            kind, text = type(error), {"error": describe(error), "where": place(error)}
            text["type"] = "no numbers" if asked else kind.__name__ if kind.__module__ == "builtins" else ""
            write(pipe, b"e", k, json.dumps(text).encode())


def _missing(name: str):
    def missing(*_, **__):
        raise NotImplementedError(f"{name} is not defined")

    return missing


def run(job: dict, setting: dict, confined: bool) -> None:
    """In a fresh fork: give the answer a process, wait, end whatever is left of it, pass on what it returned."""
    account = 2_000_000_000 + os.getpid() % 1_000_000
    if confined:
        libc = Libc()
        libc.unshare(NEW_PROCESSES | NEW_MOUNTS)
        libc.mount("none", PLACE, "tmpfs", 0, f"size={FOLDER},nr_inodes=1000,mode=777")
        os.chdir(PLACE)
    receive, send = os.pipe()
    child = os.fork()
    if not child:
        _become(job, setting, confined, account, send)
    os.close(send)
    content, ended = _collect(receive, time.monotonic() + setting["wall"])
    code, used = _end(child, confined, patience=1.0 if ended == "end" else 0.0)
    if ended == "end" and code in (-signal.SIGKILL, -signal.SIGXCPU):  # by the kernel
        ended = "time" if used >= 0.9 * setting["seconds"] else "memory"
    reason = ended if ended != "end" else f"status {code}" if code else ""
    out = sys.stdout.buffer
    stream = io.BytesIO(content)
    while frame := read(stream):
        if frame[0] in (b"v", b"e", b"n"):
            write(out, *frame)
    write(out, b".", 0, reason.encode())


def _end(child: int, confined: bool, patience: float) -> tuple[int, float]:
    """Wait a little, then end a process and all it has started; its status, and the processor time it took."""
    until = time.monotonic() + patience
    gone = 0
    while not gone and time.monotonic() < until:
        gone, status, used = os.wait4(child, os.WNOHANG)
        time.sleep(0 if gone else 0.005)
    with contextlib.suppress(OSError):
        if not confined:
            os.killpg(child, signal.SIGKILL)
        if not gone:
            os.kill(child, signal.SIGKILL)  # the first process of its namespace takes all others with it
    if not gone:
        _, status, used = os.wait4(child, 0)
    return os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime


def _collect(pipe: int, until: float) -> tuple[bytes, str]:
    """What comes out of the pipe until it is closed, or time or room run out; which of these it was."""
    parts, size = [], 0
    while True:
        ready, _, _ = select.select([pipe], [], [], max(0.0, until - time.monotonic()))
        if not ready:
            return b"".join(parts), "time"
        part = os.read(pipe, MiB)
        if not part:
            return b"".join(parts), "end"
        parts.append(part)
        size += len(part)
        if size > RESULTS:
            return b"".join(parts), "size"


def _become(job: dict, setting: dict, confined: bool, account: int, send: int) -> None:
    """The answer's own process; it never returns."""
    try:
        os.setsid()
        if not confined:
            os.chdir(job["folder"])
        output = os.open("output.txt", os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o666)
        os.chmod("output.txt", 0o666)
        nothing = os.open("/dev/null", os.O_RDONLY)
        for source, target in ((nothing, 0), (output, 1), (output, 2), (send, 3)):
            os.dup2(source, target)
        os.closerange(4, 1024)
        sys.stdin, sys.stdout, sys.stderr = (os.fdopen(k, mode) for k, mode in enumerate("rww"))
        _limit(setting, account)
        with open(3, "wb", closefd=False) as pipe:
            answer(job, pipe)
    except BaseException:
        os._exit(1)
    os._exit(0)


def main() -> None:
    commands, replies = sys.stdin.buffer, sys.stdout.buffer
    _, _, content = read(commands)
    setting = json.loads(content)
    sys.path[:] = setting["path"]
    sys.dont_write_bytecode = True
    import numpy  # noqa: F401
    import safetensors.torch  # noqa: F401
    import torch

    torch.set_num_threads(1)
    for name in setting["modules"]:
        importlib.import_module(name)
    setting["size"] = 8 * 2**30
    with contextlib.suppress(OSError), open("/proc/self/statm") as file:
        setting["size"] = int(file.read().split()[0]) * resource.getpagesize()
    gc.collect()
    gc.freeze()  # what is there stays as it is, and the pages stay shared with the forks
    why = confine(setting)
    write(replies, b"r", 0, why.encode())
    while frame := read(commands):
        job = pickle.loads(frame[2])
        child = os.fork()
        if not child:
            try:
                run(job, setting, not why)
            except BaseException as error:
                write(replies, b"!", 0, describe(error).encode())
            os._exit(0)
        _, status = os.waitpid(child, 0)
        write(replies, b"=", 0, str(status).encode())


if __name__ == "__main__":
    main()
