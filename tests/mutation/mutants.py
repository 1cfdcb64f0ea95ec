"""The mutants of a file: what mutmut would change in it, less what no test is asked to notice.

What must live here: which changes count, how a mutant is named, and the code that it is.  What must not: how tests are
run against it (``forks``), how its types are checked (``types``), what is printed (``run``).

The changes are mutmut's own (its operators, its rules on what can be mutated: no decorated functions, no annotations,
nothing outside of functions).  A mutant is one function with one change, compiled on its own: the runner puts its code
in the place of the function's, so the tree that is tested is the real one, links and all.

What doesn't count, and why:

- the text of errors, of assertions and of ``__repr__``, and any other text of three words or more: it is for people.
  Tests match the parts that matter
- text in other letters: one change of a text is enough, three would only weigh it up
- the first argument of ``cast``, which exists for the type checker
- the ``strict=True`` of ``zip``: it asserts what always holds
- the default of a parameter: it isn't part of a function's code

A mutant is named by its function and by the lines that it changes, so that the name survives moves of the code.
"""

from __future__ import annotations

import difflib
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FunctionType

import libcst as cst
from libcst.metadata import CodeRange, MetadataWrapper, ParentNodeProvider, PositionProvider
from mutmut.mutation.file_mutation import Mutation, create_mutations, deep_replace

__all__ = ["Mutant", "mutants_of"]

TEXT = (cst.SimpleString, cst.FormattedString, cst.ConcatenatedString)
FUTURE = "from __future__ import annotations\n"


@dataclass(frozen=True, eq=False)
class Mutant:
    path: Path
    """As it is named in the tree: streams/connectors/…, whatever the link points to."""
    owner: str | None
    """The class of a method."""
    name: str
    was: str
    becomes: str
    line: int
    lines: range
    """Of the statement that is changed: a test that executes none of them can't notice."""
    code: CodeType = field(repr=False)
    mutation: Mutation = field(repr=False)
    module: cst.Module = field(repr=False)

    @property
    def module_name(self) -> str:
        return ".".join(self.path.with_suffix("").parts)

    @property
    def function(self) -> str:
        return f"{self.module_name}:{self.owner}.{self.name}" if self.owner else f"{self.module_name}:{self.name}"

    @property
    def key(self) -> tuple[str, str, str]:
        return (self.function, self.was, self.becomes)

    def install(self, module: Mapping[str, object]) -> None:
        """Puts the mutant's code in the place of the function's.  Only ever called in a process that ends after it."""
        found = vars(module[self.owner])[self.name] if self.owner else module[self.name]
        function = getattr(found, "__func__", found)
        assert isinstance(function, FunctionType), self.function
        function.__code__ = self.code


def mutants_of(path: Path) -> Iterator[Mutant]:
    """All that count, in the order of the file."""
    module, mutations, _, _ = create_mutations(str(path), path.read_text("utf-8"))
    wrapper = MetadataWrapper(module, unsafe_skip_copy=True)
    parents = wrapper.resolve(ParentNodeProvider)
    positions = wrapper.resolve(PositionProvider)
    for mutation in mutations:
        function = mutation.contained_by_top_level_function
        if not isinstance(function, cst.FunctionDef) or function.name.value == "__repr__":
            continue
        above = list(_above(mutation.original_node, parents))
        if not _counts(mutation, above):
            continue
        owner = next((node.name.value for node in above if isinstance(node, cst.ClassDef)), None)
        changed = deep_replace(function, mutation.original_node, mutation.mutated_node)
        assert isinstance(changed, cst.FunctionDef)
        before, after = module.code_for_node(function), module.code_for_node(changed)
        code = _compiled(after, owner, function.name.value, path)
        if code is None:
            continue
        was, becomes = _difference(before, after)
        lines = _lines([mutation.original_node, *above], positions)
        yield Mutant(
            path, owner, function.name.value, was, becomes, lines.start, lines, code, mutation=mutation, module=module
        )


def _above(node: cst.CSTNode, parents: Mapping[cst.CSTNode, cst.CSTNode]) -> Iterator[cst.CSTNode]:
    while node in parents:
        node = parents[node]
        yield node


def _counts(mutation: Mutation, above: list[cst.CSTNode]) -> bool:
    node, changed = mutation.original_node, mutation.mutated_node
    if isinstance(node, cst.Param) or any(isinstance(other, cst.Param) for other in above):
        return False
    if isinstance(node, cst.SimpleString) and len(node.value.split()) > 2:
        return False
    if any(isinstance(part, cst.FormattedString) and _words(part) > 2 for part in above):
        return False
    if isinstance(node, cst.SimpleString) and node.value.lower() == getattr(changed, "value", "").lower():
        return False
    if isinstance(node, cst.Call) and isinstance(changed, cst.Call):
        if _name(node.func) == "cast":
            return False
        # An argument that is left out or None: it counts unless it is a message.
        gone = [arg for arg in node.args if not any(arg is other for other in changed.args)]
        if any(_keyword(arg) == "strict" for arg in gone):
            return False
        if gone and all(_is_text(arg.value) for arg in gone) and _is_error(node, above):
            return False
    path = [node, *above]
    for i, part in enumerate(path):
        if isinstance(part, cst.Assert) and i > 0 and path[i - 1] is part.msg:
            return False
        if isinstance(part, cst.Arg) and _keyword(part) == "strict":
            return False
        if isinstance(part, cst.Arg) and i + 1 < len(path):
            call = path[i + 1]
            if isinstance(call, cst.Call) and _name(call.func) == "cast" and part is call.args[0]:
                return False
            if isinstance(call, cst.Call) and _is_text(part.value) and _is_error(call, path[i + 2 :]):
                return False
    return True


def _is_text(node: cst.BaseExpression) -> bool:
    if isinstance(node, cst.BinaryOperation):
        return _is_text(node.left) or _is_text(node.right)
    return isinstance(node, TEXT)


def _words(text: cst.FormattedString) -> int:
    return sum(len(part.value.split()) for part in text.parts if isinstance(part, cst.FormattedStringText))


def _keyword(arg: cst.Arg) -> str:
    return arg.keyword.value if arg.keyword is not None else ""


def _is_error(call: cst.Call, above: list[cst.CSTNode]) -> bool:
    return _name(call.func).endswith(("Error", "Exception", "__init__")) or any(
        isinstance(node, cst.Raise) for node in above
    )


def _name(node: cst.BaseExpression) -> str:
    if isinstance(node, cst.Attribute):
        return node.attr.value
    return node.value if isinstance(node, cst.Name) else ""


def _lines(path: list[cst.CSTNode], positions: Mapping[cst.CSTNode, CodeRange]) -> range:
    """Of the innermost statement; of one with a body, its head alone, unless the change is the statement itself."""
    for i, node in enumerate(path):
        if isinstance(node, cst.SimpleStatementLine | cst.BaseCompoundStatement | cst.ExceptHandler | cst.MatchCase):
            where = positions[node]
            last = where.end.line
            body = getattr(node, "body", None)
            if i > 0 and isinstance(body, cst.IndentedBlock):
                last = positions[body.body[0]].start.line - 1
            return range(where.start.line, max(last, where.start.line) + 1)
    raise AssertionError("a change outside of any statement")


def _compiled(source: str, owner: str | None, name: str, path: Path) -> CodeType | None:
    source = textwrap.dedent(source)
    if owner is not None:
        # In a class of that name: what `super()` and names with two underscores need.
        source = f"class {owner}:\n" + textwrap.indent(source, "    ")
    try:
        code = compile(FUTURE + source, str(path), "exec", dont_inherit=True)
    except SyntaxError:
        return None
    for step in (owner, name) if owner is not None else (name,):
        code = next(part for part in code.co_consts if isinstance(part, CodeType) and part.co_name == step)
    return code


def _difference(before: str, after: str) -> tuple[str, str]:
    was, becomes = [], []
    for line in difflib.ndiff(before.splitlines(), after.splitlines()):
        if line.startswith("- "):
            was.append(line[2:].strip())
        elif line.startswith("+ "):
            becomes.append(line[2:].strip())
    return " ".join(was), " ".join(becomes)
