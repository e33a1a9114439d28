"""Image sets, drawn here or read from disk: `load_dataset` gives training, validation and test parts."""

from helpers.data import scenes
from helpers.data.birds import Birds, make_birds
from helpers.data.image_set import ImageSet
from helpers.data.load import data_root, fetch, load_dataset
from helpers.data.photographs import DatasetError, open_image
from helpers.data.seen_unseen import SeenUnseen, seen_and_unseen
from helpers.data.splits import Splits, few_shot, long_tail

__all__ = [
    "Birds",
    "DatasetError",
    "ImageSet",
    "SeenUnseen",
    "Splits",
    "data_root",
    "fetch",
    "few_shot",
    "load_dataset",
    "long_tail",
    "make_birds",
    "open_image",
    "scenes",
    "seen_and_unseen",
]
