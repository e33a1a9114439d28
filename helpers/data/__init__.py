"""Image sets, drawn here or read from disk: `load_dataset` gives training, validation and test parts."""

from helpers.data.birds import Birds, make_birds
from helpers.data.image_set import ImageSet
from helpers.data.load import data_root, fetch, load_dataset
from helpers.data.photographs import DatasetError
from helpers.data.splits import Splits, few_shot, long_tail

__all__ = [
    "Birds",
    "DatasetError",
    "ImageSet",
    "Splits",
    "data_root",
    "fetch",
    "few_shot",
    "load_dataset",
    "long_tail",
    "make_birds",
]
