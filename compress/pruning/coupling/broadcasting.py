"""Operations on channel labels: union element by element, dimensions that must stay complete, and summation."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from torch import Tensor

from .labels import Unions, Value, core, settle, varying


def keep_whole(unions: Unions, value: Value, dims: Collection[int], why: str) -> Value:
    """Forbid removal along ``dims``: unite the labels along them, and lock the labels that vary only along them."""
    arrays, reason = [], value.why
    for array in value.arrays:
        inside = varying(array) & set(dims)
        if not inside:
            arrays.append(array)
        elif inside == varying(array):
            unions.lock(array, why)
            reason = reason or why
        else:
            first = _first_along(array, inside)
            unions.unite(array, first)
            arrays.append(first)
    return settle(unions, Value(value.shape, arrays, reason))


def consume(unions: Unions, value: Value, dims: Collection[int], whole: bool = True) -> Value:
    """Sum over ``dims``: labels that vary only along them do not reach the output.

    Args:
        whole: unite labels that vary along ``dims`` and along other dimensions (head and head dimension) along
            ``dims``, so that complete heads can be removed; else along the others, so that parts of the summed
            dimension can be removed.

    Returns:
        The value with size 1 along ``dims``.
    """
    shape = tuple(1 if dim in dims else size for dim, size in enumerate(value.shape))
    arrays = []
    for array in settle(unions, value).arrays:
        inside, outside = varying(array) & set(dims), varying(array) - set(dims)
        if not outside:
            continue
        if inside and not (whole and _free_classes(unions, array, inside) > 1):
            unions.unite(array, _first_along(array, outside))
            continue
        if inside:
            unions.unite(array, _first_along(array, inside))
            array = _first_along(array, inside)
        arrays.append(array[tuple(slice(0, 1) if dim in dims else slice(None) for dim in range(array.dim()))])
    return settle(unions, Value(shape, arrays, value.why))


def _free_classes(unions: Unions, array: Tensor, inside: set[int]) -> int:
    """Number of free classes after the array's labels are united along ``inside``."""
    locked = unions.locked(core(array).numpy()).any(axis=tuple(sorted(inside)))
    return int((~locked).sum())


def _first_along(array: Tensor, dims: Iterable[int]) -> Tensor:
    small = array
    for dim in dims:
        small = small.narrow(dim, 0, 1)
    return small.expand(array.shape)


def meet(unions: Unions, operands: Sequence[Value], where: str) -> Value:
    """Combine values element by element, with broadcasting: labels at the same place are united.

    Args:
        operands: values of equal rank, with size 1 in broadcast dimensions.
        where: the reason to record if a label is combined with a fixed dimension.
    """
    result = settle(unions, operands[0])
    for other in operands[1:]:
        result = _meet_two(unions, result, settle(unions, other), where)
    return result


def _meet_two(unions: Unions, a: Value, b: Value, where: str) -> Value:
    shape = tuple(max(one, two) if 0 not in (one, two) else 0 for one, two in zip(a.shape, b.shape, strict=True))
    common = {dim for dim, (one, two) in enumerate(zip(a.shape, b.shape)) if one > 1 and two > 1}
    pairs = _pair(a.arrays, b.arrays, common)
    for one, two in pairs:
        unions.unite(one, two)
    kept = [one for one, _ in pairs]
    for value, other, side in ((a, b, 0), (b, a, 1)):
        paired = {id(pair[side]) for pair in pairs}
        alone = Value(value.shape, [array for array in value.arrays if id(array) not in paired])
        kept += keep_whole(unions, alone, common, other.why or where).arrays
    why = a.why or b.why
    return disjoint(unions, Value(shape, [array.expand(shape) for array in kept], why))


def _pair(first: list[Tensor], second: list[Tensor], common: set[int]) -> list[tuple[Tensor, Tensor]]:
    """Pairs of arrays, one to one: those with the largest overlap along common dimensions first, then the outermost."""

    def _fit(one: Tensor, two: Tensor) -> tuple[int, int, int]:
        shared = varying(one) & varying(two) & common
        return len(shared), -len(varying(one) ^ varying(two)), -min(shared, default=0)

    scored = [(_fit(one, two), i, j) for i, one in enumerate(first) for j, two in enumerate(second)]
    pairs: dict[int, int] = {}
    for fit, i, j in sorted(scored, key=lambda item: item[0], reverse=True):
        if fit[0] and i not in pairs and j not in pairs.values():
            pairs[i] = j
    return [(first[i], second[j]) for i, j in pairs.items()]


def disjoint(unions: Unions, value: Value) -> Value:
    """Keep one array of labels per dimension; if a movement merged two, the one with more removable classes stays."""
    value = settle(unions, value)
    if sum(len(varying(array)) for array in value.arrays) == len(set().union(*map(varying, value.arrays))):
        return value
    ranked = sorted(value.arrays, key=lambda array: -unions.strength(core(array).numpy()))
    kept = ranked[:1]
    for array in ranked[1:]:
        taken = set().union(*map(varying, kept))
        kept += keep_whole(
            unions, Value(value.shape, [array]), taken, "shares its dimension with other channels"
        ).arrays
    return settle(unions, Value(value.shape, kept, value.why))
