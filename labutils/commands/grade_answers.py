"""Answers out of notebooks: each function by its name, with the statements that it needs and no others.

A notebook is read for what it is, not for what it should be: code cells and their text. Names are followed through
the syntax tree, so a cell that trains for an hour, or that cannot be parsed, concerns nobody who does not use it.
"""

from __future__ import annotations

import ast
import builtins
import json
import symtable
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from IPython.core.inputtransformer2 import TransformerManager

TRANSPARENT = ("time", "timeit", "capture", "prun")  # cell magics that execute the cell as it stands
# What reading a text can raise, however it is nested.
UNREADABLE = (SyntaxError, ValueError, RecursionError, MemoryError, AttributeError, TypeError, KeyError)


class NotANotebook(ValueError):
    """A file holds no notebook that can be read; the message says why."""


@dataclass(frozen=True)
class Statement:
    """A statement on a cell's top level. binds: names it gives a value, or changes; eager: names it reads when it is
    executed; lazy: names that functions in it read when they are called."""

    cell: str
    node: ast.stmt
    binds: frozenset[str]
    eager: frozenset[str]
    lazy: frozenset[str]


@dataclass(frozen=True)
class Answer:
    """statements: in their order, with the cell each is from. missing: functions that are defined nowhere; stubs:
    functions that only raise NotImplementedError. again: functions that are defined more than once. borrowed:
    functions of other exercises that are used, and whether an answer to them is there."""

    statements: list[tuple[str, ast.stmt]]
    missing: tuple[str, ...]
    stubs: tuple[str, ...] = ()
    again: tuple[str, ...] = ()
    borrowed: dict[str, bool] = field(default_factory=dict)

    @property
    def whole(self) -> bool:
        return not (self.missing or self.stubs)

    @property
    def text(self) -> str:
        return "\n\n".join(ast.unparse(node) for _, node in self.statements)


# --- cells -------------------------------------------------------------------------------------------------


def code_cells(content: bytes) -> list[str]:
    """The text of a notebook's code cells, of any format, with or without metadata. Raises NotANotebook."""
    try:
        notebook = json.loads(content.decode("utf-8-sig", errors="replace"))
        if not isinstance(notebook, dict):
            raise NotANotebook("it is no notebook")
        cells = notebook.get("cells")
        if cells is None:
            cells = [cell for sheet in notebook["worksheets"] for cell in sheet["cells"]]
        code = [cell for cell in cells if isinstance(cell, dict) and cell.get("cell_type") == "code"]
        return [_text(cell.get("source", cell.get("input", ""))) for cell in code]
    except NotANotebook:
        raise
    except json.JSONDecodeError as error:
        raise NotANotebook(f"it is no notebook, or a damaged one ({error.msg}, line {error.lineno})") from None
    except UNREADABLE as error:
        raise NotANotebook(f"it is no notebook, or a damaged one ({type(error).__name__})") from None


def _text(source: object) -> str:
    return "".join(map(str, source)) if isinstance(source, list) else str(source)


def statements(cells: Sequence[str]) -> tuple[list[Statement], list[str]]:
    """All statements of the cells, and a line for each cell that cannot be parsed."""
    found, problems = [], []
    for number, text in enumerate(cells, 1):
        name = f"code cell {number}"
        try:
            found += [_statement(name, node) for node in _parse(text)]
        except UNREADABLE as error:
            line = f", line {error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
            problems.append(f"{name} cannot be parsed{line}: {getattr(error, 'msg', type(error).__name__)}")
    return found, problems


def _parse(text: str) -> Iterable[ast.stmt]:
    """The statements of a cell, an import of several names as several; magics and shell lines stand as calls."""
    if text.lstrip().startswith("%%"):
        first, _, rest = text.lstrip().partition("\n")
        text = "\n" + rest if first[2:].split(" ")[0].strip() in TRANSPARENT else ""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an odd escape in a student's string is no concern of the grader's
        try:
            tree = ast.parse(text)
        except SyntaxError:
            tree = ast.parse(TransformerManager().transform_cell(text))
    for node in tree.body:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            for alias in node.names:
                one = (
                    ast.Import([alias])
                    if isinstance(node, ast.Import)
                    else ast.ImportFrom(node.module, [alias], node.level)
                )
                yield ast.copy_location(one, node)
        else:
            yield node


def _statement(cell: str, node: ast.stmt) -> Statement:
    binds, eager, lazy = set(), set(), set()
    table = symtable.symtable(ast.unparse(node), cell, "exec")
    for symbol in table.get_symbols():
        if symbol.is_assigned() or symbol.is_imported():
            binds.add(symbol.get_name())
        if symbol.is_referenced():
            eager.add(symbol.get_name())
    for child in table.get_children():
        _inner(child, eager, lazy, called=False)
    if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        binds |= _changed(node)
    return Statement(cell, node, frozenset(binds), frozenset(eager | _changed(node)), frozenset(lazy))


def _inner(table: symtable.SymbolTable, eager: set[str], lazy: set[str], called: bool) -> None:
    """Global names that an inner scope reads: at once in a class and a comprehension, later in a function."""
    at_once = table.get_type() == "class" or table.get_name() in ("listcomp", "setcomp", "dictcomp", "genexpr")
    called = called or not at_once
    for symbol in table.get_symbols():
        if symbol.is_referenced() and symbol.is_global():
            (lazy if called else eager).add(symbol.get_name())
    for child in table.get_children():
        _inner(child, eager, lazy, called)


def _changed(node: ast.stmt) -> set[str]:
    """Names whose object a statement changes in place: `x[0] = …`, `x.y = …`."""
    changed = set()
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return changed
    for inner in ast.walk(node):
        if isinstance(inner, (ast.Subscript, ast.Attribute)) and isinstance(inner.ctx, ast.Store):
            target = inner
            while isinstance(target, (ast.Subscript, ast.Attribute)):
                target = target.value
            if isinstance(target, ast.Name):
                changed.add(target.id)
    return changed


# --- answers -----------------------------------------------------------------------------------------------


def is_stub(node: ast.stmt) -> bool:
    """A function that has nothing but a docstring and `raise NotImplementedError`, `pass` or `...`."""
    if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        return False
    body = [n for n in node.body if not (isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant))]
    if not body:
        return True
    raised = [n.exc.func if isinstance(n.exc, ast.Call) else n.exc for n in body if isinstance(n, ast.Raise)]
    names = [n.id for n in raised if isinstance(n, ast.Name)]
    return len(body) == 1 and (names == ["NotImplementedError"] or isinstance(body[0], ast.Pass))


def answer(found: Sequence[Statement], functions: Sequence[str], everywhere: Sequence[str] = ()) -> Answer:
    """The last definition of each of the functions, with what they need.

    everywhere: the functions of all exercises. One that another answer calls is found by the same rule.
    """
    chosen: set[int] = set()
    known = {name: _definition(found, name) for name in {*functions, *everywhere}}
    todo = [(name, len(found)) for name in functions]
    unbound, used = set(), set()
    while todo:
        name, before = todo.pop()
        used.add(name)
        k = known.get(name) if name in known else _last(found, name, before)
        if k is None:
            unbound.add(name)
        elif k not in chosen:
            chosen.add(k)
            todo += [(other, k) for other in found[k].eager] + [(other, len(found)) for other in found[k].lazy]
    if any(not hasattr(builtins, name) for name in unbound):  # a name from `import *`, perhaps
        chosen |= {k for k, s in enumerate(found) if isinstance(s.node, ast.ImportFrom) and s.node.names[0].name == "*"}
    return Answer(
        statements=[(found[k].cell, found[k].node) for k in sorted(chosen)],
        missing=tuple(name for name in functions if known[name] is None),
        stubs=tuple(name for name in functions if known[name] is not None and is_stub(found[known[name]].node)),
        again=tuple(name for name in functions if len(_definitions(found, name)) > 1),
        borrowed={
            name: known[name] is not None and not is_stub(found[known[name]].node)
            for name in sorted((used & {*everywhere}) - {*functions})
        },
    )


def _definitions(found: Sequence[Statement], name: str) -> list[int]:
    """Where a function of this name is defined and is no stub; the same text twice counts once."""
    places = [k for k, s in enumerate(found) if getattr(s.node, "name", None) == name and not is_stub(s.node)]
    return list({ast.dump(found[k].node): k for k in places}.values())


def _definition(found: Sequence[Statement], name: str) -> int | None:
    """The last `def` of a name that is no stub; else what else gives it a value; else the stub."""
    if written := [k for k, s in enumerate(found) if getattr(s.node, "name", None) == name and not is_stub(s.node)]:
        return written[-1]
    given = [k for k, s in enumerate(found) if name in s.binds]
    return next((k for k in reversed(given) if not is_stub(found[k].node)), given[-1] if given else None)


def _last(found: Sequence[Statement], name: str, before: int) -> int | None:
    """The last statement before a place that gives a name its value; else the last of all."""
    places = [k for k, s in enumerate(found) if name in s.binds]
    return next((k for k in reversed(places) if k < before), places[-1] if places else None)
