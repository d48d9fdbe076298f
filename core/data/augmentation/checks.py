"""The augmentation of a data set from its options: every transform must be right for an input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

from ...counts import listed
from ...errors import UserError
from ...options.augment_options import TRANSFORMS, CutmixOptions, MaskOptions, MixupOptions, Step
from ...options.image_transforms import ShiftOptions, Transform
from ...options.metric_names import Task
from ...preprocessing.specs import Preprocessing
from ...tensors import Array
from .augmentation import Augmentation, applies, followed_by
from .following import Follows
from .input_kinds import WORDS, InputForm, input_forms
from .mixing import Mixing, image_shape

UNMIXED: tuple[Task, ...] = ("detection", "sequence")
"""Tasks whose targets, boxes and rows of symbols, have nothing between two of them."""


def augmentation_of(
    steps: Sequence[Step],
    example: Mapping[str, Array],
    targets: Array | None,
    preprocessing: Sequence[Preprocessing] = (),
    tokenizer: bytes = b"",
    task: Task | None = None,
) -> Augmentation:
    """The augmentation of a data set.

    Args:
        steps: the option ``augment``.
        example: some training samples, on axis 0.
        targets: their targets.
        preprocessing: how pictures, texts and recordings become inputs.
        tokenizer: the file of the tokenizer of texts.
        task: what the targets are for: those of detection are boxes, ``[N, M, 5]``.

    Raises:
        UserError: a transform is made for no input, or lacks what it needs.
    """
    forms = input_forms(example, preprocessing, tokenizer)
    for step in steps:
        _require_input(step, forms)
    follows = followed_by(targets, list(forms.values()), boxes=task == "detection")
    plain = tuple(step for step in steps if not isinstance(step.options, MixupOptions | CutmixOptions))
    for step in plain:
        for form in forms.values():
            if applies(step, form):
                _check(step, form, targets)
    return Augmentation(plain, forms, _mixing(steps, forms, targets, follows, task), follows)


def _require_input(step: Step, forms: Mapping[str, InputForm]) -> None:
    """Fail unless a transform is made for an input.

    Raises:
        UserError: it is for other kinds of inputs, or the input that it names does not exist.
    """
    asked, options = step.options.input, step.options
    if asked is not None and asked not in forms:
        raise UserError(
            f"`augment`: `{step.name}` is for the input '{asked}', which the data do not have",
            f"the inputs are {listed(forms)}",
        )
    given = [forms[asked]] if asked is not None else list(forms.values())
    if any(applies(step, form) for form in given):
        return
    kinds = listed((WORDS[kind].split(" ", 1)[1] + "s" * (kind != "series") for kind in options.kinds), "or")
    kinds = kinds.replace("row of numberss", "rows of numbers").replace("row of tokenss", "rows of tokens")
    fitting = [name for name, other in TRANSFORMS.items() if any(form.kinds & {*other.kinds} for form in given)]
    remedy = f"the transforms for it are {listed(fitting)}" if fitting else "remove `augment`"
    raise UserError(
        f"`augment`: `{step.name}` changes {kinds}, and the data have {listed(form.describe() for form in given)}",
        remedy,
    )


def _check(step: Step, form: InputForm, targets: Array | None) -> None:
    options: Transform = step.options
    if "tokens" not in form.kinds:
        return
    if isinstance(options, MaskOptions) and options.token is None and form.tokens.mask is None:
        raise UserError(
            f"`augment`: `mask` needs the number of the mask token for input '{form.name}', and its texts have none",
            "give it as `mask: {token: 103}`, a number that the model's embedding has and no text uses",
        )
    if isinstance(options, ShiftOptions) and form.tokens.special:
        raise UserError(
            f"`augment`: `shift` would move the special tokens of input '{form.name}' to other places",
            "use `mask` or `drop` for the tokens of a tokenizer",
        )
    if step.name != "mask" and targets is not None and targets.ndim > 1 and targets.shape[1:2] == form.shape[:1]:
        raise UserError(
            f"`augment`: `{step.name}` moves the tokens of input '{form.name}', and each token has a target of its own",
            "use `mask`, which keeps their places",
        )


def _mixing(
    steps: Sequence[Step], forms: Mapping[str, InputForm], targets: Array | None, follows: Follows, task: Task | None
) -> Mixing:
    """What mixes samples.

    Raises:
        UserError: a transform is given twice, or an input has values that cannot be mixed.
    """
    mixers = [step for step in steps if isinstance(step.options, MixupOptions | CutmixOptions)]
    for step in mixers:
        if sum(other.name == step.name for other in mixers) > 1:
            raise UserError(f"`augment` has `{step.name}` twice", "remove one of them")
        wrong = next((form for form in forms.values() if not form.kinds & {*step.options.kinds}), None)
        if wrong is not None or step.options.input is not None:
            what = wrong.describe() if wrong else f"input '{step.options.input}' alone"
            raise UserError(
                f"`augment`: `{step.name}` mixes whole samples, and cannot mix {what}", f"remove `{step.name}`"
            )
        if step.name == "cutmix" and any(a != b for a, b in pairwise(image_shape(f)[-2:] for f in forms.values())):
            raise UserError("`augment`: `cutmix` needs images of one size in all inputs", "use `mixup`")
        if targets is not None and (task in UNMIXED or (task == "embedding" and targets.dtype.kind != "f")):
            raise UserError(
                f"`augment`: `{step.name}` cannot mix the targets of `task: {task}`", f"remove `{step.name}`"
            )
        if targets is not None and follows == "nothing" and step.name == "cutmix" and np.ndim(targets) > 2:
            raise UserError(
                f"`augment`: `cutmix` cannot cut targets of shape {list(targets.shape[1:])}",
                "give targets with the height and the width of the images, or use `mixup`",
            )
    options = {step.name: step.options for step in mixers}
    mixup, cutmix = options.get("mixup"), options.get("cutmix")
    return Mixing(
        mixup if isinstance(mixup, MixupOptions) else None, cutmix if isinstance(cutmix, CutmixOptions) else None
    )
