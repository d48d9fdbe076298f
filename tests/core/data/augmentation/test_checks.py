"""What is right for which input, and how the option is written."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from augmented_views import views
from pydantic import ValidationError

from retort.core.errors import UserError
from retort.core.options.recipe import option_faults
from retort.core.options.stage_options import RecoverOptions, TrainOptions

IMAGE = np.random.default_rng(0).random((2, 3, 8, 8)).astype(np.float32)
TOKENS = np.ones((2, 8), np.int64)


@pytest.mark.parametrize(
    ("inputs", "step", "message"),
    [
        (TOKENS, "flip", r"`flip` changes images, and the data have input 'x', a row of tokens \(int64\[8\]\)"),
        (IMAGE, "gain", r"`gain` changes recordings, and the data have input 'x', an image \(float32\[3, 8, 8\]\)"),
        (IMAGE, "mask", "`mask` changes rows of tokens, and the data have input 'x', an image"),
        (np.ones((2, 5), np.float32), "color", "a recording or a row of numbers"),
        (np.ones((2, 2, 3, 4, 5), np.float32), "noise", "of no kind that can be changed"),
        (IMAGE, {"flip": {"input": "y"}}, "`flip` is for the input 'y', which the data do not have"),
    ],
)
def test_a_transform_for_another_kind_of_input_is_refused(inputs: Any, step: Any, message: str) -> None:
    """One sentence names the transform, the input and its kind."""
    with pytest.raises(UserError, match=message):
        views(inputs, step)


def test_the_remedy_lists_what_fits() -> None:
    """The transforms that are made for the inputs that there are."""
    with pytest.raises(UserError) as caught:
        views(TOKENS, "flip")
    assert caught.value.remedy == "the transforms for it are shift, mask and drop"


def test_short_forms_mean_the_same_as_long_ones() -> None:
    """A name, a single value, the spelling of the command line, and all keys."""
    short = TrainOptions(augment=("flip", {"rotate": 10}, "crop=4"))
    long = TrainOptions(augment=({"flip": {}}, {"rotate": {"degrees": 10}}, {"crop": {"padding": 4}}))
    assert short == long
    assert TrainOptions.model_validate(short.model_dump(mode="json")) == short


@pytest.mark.parametrize(
    ("augment", "fault"),
    [
        (["rotat"], "augment.0: unknown transform 'rotat'; did you mean 'rotate'?"),
        ([{"crop": {"paddin": 3}}], "augment.0.crop.paddin: unknown key; did you mean 'padding'?"),
        ([{"rotate": -1}], "augment.0.rotate.degrees: must be more than 0, not -1"),
        ([{"color": 0.3}], "augment.0.color: must be keys with values, not 0.3"),
        ([{"noise": {"std": 0.1, "snr_db": [1, 2]}}], "augment.0.noise: give either `std` or `snr_db`"),
        (["flip", {"erase": {"fill": "blak"}}], "augment.1.erase.fill: 'blak' is not one of"),
    ],
)
def test_faults_have_their_place_and_the_nearest_spelling(augment: Any, fault: str) -> None:
    """In training, and in the training after a cut."""
    for options in (TrainOptions, RecoverOptions):
        with pytest.raises(ValidationError) as caught:
            options(augment=augment)
        assert option_faults(options, caught.value)[0].startswith(fault)
