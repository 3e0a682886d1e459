"""Reads a compiled program's text: what it sends between devices, and its largest values.

XLA prints the body of a loop once; here every instruction counts as often as it runs, where the
loop says its trip count. All branches of a conditional count. Bytes are those that a device sends
around a ring of n: (n - 1) / n of an all-gather's result or an all-to-all's input, twice that for
an all-reduce, everything for a permute.
"""

import dataclasses
import math
import re
import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

BYTES = {
    "pred": 1, "s4": 0.5, "u4": 0.5, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "s32": 4, "u32": 4,
    "s64": 8, "u64": 8, "bf16": 2, "f16": 2, "f32": 4, "f64": 8, "c64": 8, "c128": 16,
}  # fmt: skip
COLLECTIVES = (
    "all-gather", "all-reduce", "reduce-scatter", "all-to-all", "ragged-all-to-all",
    "collective-permute",
)  # fmt: skip
# Instructions that name a value without making one.
NAMES_ONLY = {
    "parameter", "get-tuple-element", "tuple", "bitcast", "while", "conditional", "call",
    "copy-done", "after-all", "opt-barrier", "constant", "iota", "custom-call-done",
}  # fmt: skip
_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$|^(ENTRY )?%?([\w.\-]+) \{$")
_LINE = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*?) ([a-z][a-z0-9\-]*)\((.*)$")
_SHAPE = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\]")
_CALLS = re.compile(
    r"(?:calls|to_apply|body|condition|true_computation|false_computation)=%?([\w.\-]+)"
)
_BRANCHES = re.compile(r"(?:branch_computations|called_computations)=\{([^}]*)\}")
_TRIPS = re.compile(r'known_trip_count"?:\{"?n"?:"?(\d+)')
_LISTED = re.compile(r"replica_groups=\{(\{[\d,]+\}(?:,\{[\d,]+\})*)\}")
_IOTA = re.compile(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_AXES = re.compile(
    r"replica_groups=mesh\[([^\]]*)\]"
    r"(?:, device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\))? ?\{([^}]*)\}"
)
_MEGASCALE = re.compile(
    r'_xla_megascale_target="\{([\d,:]+)\}.*_xla_megascale_transfer_type="(\w+)"'
)
_NAMES = re.compile(r"%([\w.\-]+)")
_PAIRS = re.compile(r"source_target_pairs=\{(.*?)\}\}")


class Instruction(NamedTuple):
    """One line: its shapes are (dtype, dimensions) of the result, in order.

    Of what begins a collective ("-start") they are those of the collective's result.
    """

    name: str
    op: str
    shapes: tuple[tuple[str, tuple[int, ...]], ...]
    rest: str

    @property
    def source(self) -> str:
        """What it was in the program, e.g. "jit(update)/while/body/dot_general"."""
        found = re.search(r'op_name="([^"]*)"', self.rest)
        return found.group(1) if found else self.name


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective instruction.

    Attributes:
      kind: of COLLECTIVES.
      shapes: of the result.
      group: devices that take part together.
      times: how often it runs.
      sent: bytes a device sends each time.
      across: whether a group spans slices.
      local: devices of a group that one slice has, which share what is sent across.
      source: see `Instruction.source`.
      copies: of the model that a group spans, 1 where nobody asked.
    """

    kind: str
    shapes: tuple[tuple[str, tuple[int, ...]], ...]
    group: int
    times: int
    sent: float
    across: bool
    source: str
    local: int = 1
    copies: int = 1


def size(shape: tuple[str, tuple[int, ...]]) -> float:
    """Returns the bytes of (dtype, dimensions); 1 an element for an unknown dtype."""
    return BYTES.get(shape[0], 1) * math.prod(shape[1])


def parse(text: str) -> tuple[dict[str, list[Instruction]], str]:
    """Returns ({computation: instructions}, name of the entry).

    Raises:
      ValueError: no entry computation in the text.
    """
    computations: dict[str, list[Instruction]] = {}
    entry, current = "", []  # what stands before the first computation is dropped
    for line in text.splitlines():
        if line and not line[0].isspace():
            head = _HEAD.match(line)
            if head:
                name = head.group(2) or head.group(4)
                current = computations.setdefault(name, [])
                entry = name if line.startswith("ENTRY") else entry
            continue
        if found := _LINE.match(line):
            name, kind, op, rest = found.groups()
            shapes = tuple(
                (dtype, tuple(int(d) for d in dims.split(",") if d))
                for dtype, dims in _SHAPE.findall(_result(kind, op))
            )
            current.append(Instruction(name, op, shapes, rest))
    if not entry:
        raise ValueError("hlo: wanted the text of a compiled program, found no ENTRY computation")
    return computations, entry


def _result(kind: str, op: str) -> str:
    """Of a start's type "(operands, results, ...)" the results; all-reduce has its results only.

    A GPU's program joins many collectives in one: "((f32[2], f32[4]), (f32[8], f32[16]))".
    """
    if not op.endswith("-start") or op == "all-reduce-start" or not kind.startswith("("):
        return kind
    depth, parts = 0, [""]
    for letter in kind[1:-1]:
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return parts[1] if len(parts) > 1 else kind


def called(instruction: Instruction) -> list[str]:
    """Returns the names of the computations that an instruction calls."""
    names = _CALLS.findall(instruction.rest)
    for group in _BRANCHES.findall(instruction.rest):
        names += [name.strip().lstrip("%") for name in group.split(",")]
    return names


def trips(loop: Instruction, computations: dict[str, list[Instruction]]) -> int:
    """Returns a loop's trip count, as noted or as its condition compares; 1 if neither tells."""
    if noted := _TRIPS.search(loop.rest):
        return int(noted.group(1))
    condition = re.search(r"condition=%?([\w.\-]+)", loop.rest)
    lines = computations.get(condition.group(1), []) if condition else []
    whole = [
        int(line.rest.split(")")[0])
        for line in lines
        if line.op == "constant" and line.shapes and line.shapes[0][0] in ("s32", "u32")
    ]
    less = [line for line in lines if "direction=LT" in line.rest]
    if not less or len(whole) != 1:
        return 1
    return -(-whole[0] // _step(loop, less[0], lines, computations))


def _step(
    loop: Instruction,
    compared: Instruction,
    lines: Sequence[Instruction],
    computations: dict[str, list[Instruction]],
) -> int:
    """How far a loop's counter goes in a turn: more than 1 where turns were joined; else 1."""
    names = {line.name: line for line in lines}
    counter = names.get(next(iter(_NAMES.findall(compared.rest)), ""))
    index = re.search(r"index=(\d+)", counter.rest) if counter else None
    body = re.search(r"body=%?([\w.\-]+)", loop.rest)
    inside = {x.name: x for x in computations.get(body.group(1), [])} if body else {}
    results = [x for x in inside.values() if x.op == "tuple"]
    if index is None or not results:
        return 1
    found = _NAMES.findall(results[-1].rest)
    place = int(index.group(1))
    last = inside.get(found[place]) if place < len(found) else None
    if last is None or last.op != "add":
        return 1
    added = [inside[name] for name in _NAMES.findall(last.rest) if name in inside]
    steps = [int(x.rest.split(")")[0]) for x in added if x.op == "constant"]
    return steps[0] if len(steps) == 1 and steps[0] > 0 else 1


def _runs(computations: dict[str, list[Instruction]], entry: str) -> dict[str, int]:
    """Returns how often each computation runs (all callers together)."""
    runs: dict[str, int] = {}

    def visit(name: str, times: int) -> None:
        runs[name] = runs.get(name, 0) + times
        for instruction in computations[name]:
            inner = times * (trips(instruction, computations) if instruction.op == "while" else 1)
            for other in called(instruction):
                if other in computations:
                    visit(other, inner)

    visit(entry, 1)
    return runs


def collectives(text: str, *, slice_devices: int = 0) -> list[Collective]:
    """Returns the collectives of a compiled program.

    Args:
      text: `compiled.as_text()`.
      slice_devices: devices of a slice, 0 for one slice.
    """
    computations, entry = parse(text)
    started = {
        _channel(line) for lines in computations.values() if _starts(lines) for line in lines
    }
    fused = _called_by(computations, ("fusion",))
    found = []
    for name, times in _runs(computations, entry).items():
        goes_on = started if name in fused and not _starts(computations[name]) else ()
        for instruction in computations[name]:
            kind = instruction.op.removesuffix("-start")
            if kind in COLLECTIVES and _channel(instruction) not in goes_on:
                found.append(_collective(kind, instruction, times, slice_devices))
            elif instruction.op == "send" and (between := _MEGASCALE.search(instruction.rest)):
                target, form = between.groups()
                found.append(_between_slices(target, form, instruction, times))
    return found


def begun(
    line: Instruction,
    computations: dict[str, list[Instruction]],
    slice_devices: int,
    copy_devices: int = 0,
) -> list[Collective]:
    """Returns the collectives that one instruction begins, itself or in what it wraps.

    Args:
      copy_devices: of one copy of the model, which follow each other; 0: of one copy.
    """
    kind = line.op.removesuffix("-start")
    if kind in COLLECTIVES:
        return [_collective(kind, line, 1, slice_devices, copy_devices)]
    if line.op == "send" and (between := _MEGASCALE.search(line.rest)):
        target, form = between.groups()
        return [_between_slices(target, form, line, 1)]
    wrapped = called(line) if line.op in ("async-start", "fusion") else []
    return [
        one
        for name in wrapped
        for inner in computations.get(name, ())
        for one in begun(inner, computations, slice_devices, copy_devices)
    ]


def _channel(line: Instruction) -> str:
    found = re.search(r"channel_id=(\d+)", line.rest)
    return found.group(1) if found else line.name


def _starts(lines: Sequence[Instruction]) -> bool:
    """Whether a collective begins here that later fusions go on with, where it is repeated."""
    return any('custom_call_target="AsyncCollectiveStart"' in line.rest for line in lines)


def _called_by(computations: dict[str, list[Instruction]], ops: Sequence[str]) -> set[str]:
    """Returns the computations that instructions of these kinds call."""
    return {
        name
        for lines in computations.values()
        for line in lines
        if line.op in ops
        for name in called(line)
    }


def _collective(
    kind: str, line: Instruction, times: int, slice_devices: int, copy_devices: int = 0
) -> Collective:
    groups = _groups(line.rest)
    n = max((len(group) for group in groups), default=1)
    total = sum(size(shape) for shape in line.shapes)
    slices = [[device // (slice_devices or sys.maxsize) for device in g] for g in groups]
    across = any(len(set(one)) > 1 for one in slices)
    local = max((one.count(one[0]) for one in slices if one), default=1)
    spanned = (len({device // (copy_devices or sys.maxsize) for device in g}) for g in groups)
    return Collective(
        kind, line.shapes, n, times, _sent(kind, total, n), across, line.source, local,
        max(spanned, default=1),
    )  # fmt: skip


def _between_slices(target: str, kind: str, line: Instruction, times: int) -> Collective:
    """What a program of a TPU slice hands to its host for the other slices, "{1,2}x{0:63}"."""
    kind, shapes = kind.lower().replace("_", "-"), line.shapes[:1]
    bounds = [_numbers(part.replace(":", ",")) for part in target.split(",")]
    n = sum(part[-1] - part[0] + 1 for part in bounds)
    return Collective(kind, shapes, n, times, _sent(kind, size(shapes[0]), n), True, line.source)


def _sent(kind: str, total: float, n: int) -> float:
    """Bytes that one of n sends for a result of `total` bytes."""
    part = (n - 1) / n
    return {
        "all-reduce": 2 * total * part,
        "reduce-scatter": total * (n - 1),
        "collective-permute": total,
    }.get(kind, total * part)


def _groups(rest: str) -> list[list[int]]:
    if found := _AXES.search(rest):
        return _axis_groups(*found.groups())
    if found := _IOTA.search(rest):
        shape, dims, order = found.groups()
        return _iota(dims, order).reshape(_numbers(shape)).tolist()
    found = _LISTED.search(rest) or _PAIRS.search(rest)
    if not found and "replica_groups=" in rest and "replica_groups={}" not in rest:
        raise ValueError(f"hlo: cannot read the groups of devices in {rest[:300]}")
    return [[int(x) for x in group] for group in _lists(found.group(1))] if found else []


def _numbers(text: str) -> list[int]:
    return [int(x) for x in text.split(",")]


def _iota(dims: str, order: str | None) -> np.ndarray:
    """Devices 0, 1, ... laid out as "4,2", their axes then permuted by "1,0"."""
    ids = np.arange(math.prod(_numbers(dims))).reshape(_numbers(dims))
    return ids.transpose(_numbers(order)) if order else ids


def _axis_groups(mesh: str, dims: str | None, order: str | None, names: str) -> list[list[int]]:
    """Groups given as "'a'=4,'b'=2" and "'b'": devices that differ in the named axes only.

    `dims` and `order` say which devices the mesh has in its places, as in `_iota`.
    """
    sizes = {name: int(n) for name, n in re.findall(r"'(\w+)'=(\d+)", mesh)}
    named = [name for name in re.findall(r"'(\w+)'", names) if name in sizes]
    ids = np.arange(math.prod(sizes.values())) if dims is None else _iota(dims, order)
    ids = ids.reshape(tuple(sizes.values()))
    last = [list(sizes).index(name) for name in named]
    ids = np.moveaxis(ids, last, range(ids.ndim - len(last), ids.ndim))
    return ids.reshape(-1, math.prod(sizes[name] for name in named)).tolist()


def _lists(text: str) -> Iterator[Sequence[str]]:
    for group in re.findall(r"[\d,]+(?=\}|$)", text):
        if numbers := [x for x in group.split(",") if x]:
            yield numbers


def summary(found: Sequence[Collective]) -> dict[str, dict[str, float]]:
    """Returns {kind: {count, runs, gigabytes a device sends}}; kinds across slices apart."""
    result: dict[str, dict[str, float]] = {}
    for one in found:
        row = result.setdefault(
            one.kind + (" across slices" if one.across else ""),
            {"count": 0, "runs": 0, "gigabytes": 0.0},
        )
        row["count"] += 1
        row["runs"] += one.times
        row["gigabytes"] += one.times * one.sent / 1e9
    return result


def asynchronous(text: str) -> dict[str, int]:
    """Returns {kind: count} of collectives that something else may run beside.

    They are split into a start and a done, or fused with a computation ("async_collective_fusion").
    A GPU's program splits all of them, and says which run at once ("is_sync").
    """
    kinds = "|".join((*COLLECTIVES, "async"))
    found: dict[str, int] = {}
    for kind, rest in re.findall(rf"\b({kinds})-start\((.*)", text):
        if '"is_sync":true' not in rest:
            found[kind] = found.get(kind, 0) + 1
    fused = re.findall(r"^ENTRY|^%?(async_collective_fusion[\w.]*) ", text, re.MULTILINE)
    if count := sum(map(bool, fused)):
        found["fused"] = count
    return found


def whole_weights(
    found: Sequence[Collective], shapes: Sequence[tuple[int, ...]], *, minimum: int = 2**20
) -> list[Collective]:
    """Returns the all-reduces of something as large as a whole weight.

    A gradient that is summed whole on every device costs twice the bytes of a scattered sum and
    the memory of an uncut weight.

    Args:
      found: from `collectives`.
      shapes: of the parameters, uncut; of a stack of layers the last two axes count.
      minimum: elements below which a weight does not matter.
    """
    whole = {tuple(sorted(s[-2:])) for s in shapes if math.prod(s[-2:]) >= minimum}

    def hits(one: Collective) -> bool:
        return any(tuple(sorted(dims[-2:])) in whole for _, dims in one.shapes)

    return [one for one in found if one.kind == "all-reduce" and hits(one)]


def largest(text: str, count: int = 8) -> list[tuple[float, str, str]]:
    """Returns the largest values that instructions make: (bytes, shape, source), one of a shape.

    A value is listed where it is made outside fusions; not all live at the same time.
    """
    computations, entry = parse(text)
    inside = ("fusion", "reduce", "sort", "scatter", "map", "all-reduce")
    fused = _called_by(computations, inside)
    made: dict[str, tuple[float, str, str]] = {}
    for name in _runs(computations, entry):
        for line in () if name in fused else computations[name]:
            for shape in () if line.op in NAMES_ONLY else line.shapes:
                label = f"{shape[0]}[{','.join(map(str, shape[1]))}]"
                made.setdefault(label, (size(shape), label, f"{line.op}: {line.source}"))
    return sorted(made.values(), reverse=True)[:count]


class Shortage(NamedTuple):
    """A refusal: bytes used and available, and the largest values (bytes, shape, source)."""

    used: float
    available: float
    largest: list[tuple[float, str, str]]


def shortage(message: str) -> Shortage | None:
    """Reads XLA's refusal for want of memory; None if the error is about something else."""
    amount = r"([\d.]+)([KMGT])"
    found = re.search(rf"[Uu]sed {amount} of {amount} hbm", message) or re.search(
        rf"\({amount}\) exceeds available HBM \({amount}\)", message
    )
    if not found:
        return None
    used, a, available, b = found.groups()
    values = re.findall(
        rf"Size: {amount}\s+(?:Operator: (.*?)\n)?(?:\s*Shape: ([^\n{{]*))?", message
    )
    largest = [(_amount(n, unit), shape.strip(), source) for n, unit, source, shape in values]
    return Shortage(_amount(used, a), _amount(available, b), largest[:8])


def _amount(number: str, unit: str) -> float:
    return float(number) * {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}[unit]
