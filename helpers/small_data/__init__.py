"""Learning from few images: the images, random views of them, small networks, losses made for the purpose."""

from helpers.small_data.images import few_images, seen_and_new
from helpers.small_data.networks import initialise, make_network
from helpers.small_data.remedies import AdaCosLoss, Cosines, SelfDistillationLoss
from helpers.small_data.views import RandomViews

__all__ = [
    "AdaCosLoss",
    "Cosines",
    "RandomViews",
    "SelfDistillationLoss",
    "few_images",
    "initialise",
    "make_network",
    "seen_and_new",
]
