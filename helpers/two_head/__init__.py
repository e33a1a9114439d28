"""The two-head architecture: one network for classification and retrieval, and its ranking losses.

Source: A. Taha, Y. Chen, T. Misu, A. Shrivastava, L. Davis. Boosting Standard Classification Architectures
Through a Ranking Regularizer, WACV 2020; chapter 5 of the thesis.
"""

from helpers.two_head.centres import CentreLoss, TripletCentreLoss
from helpers.two_head.losses import BatchHardTripletLoss, SemiHardTripletLoss
from helpers.two_head.network import TwoHead, TwoHeadLoss, TwoHeadOutput

__all__ = [
    "BatchHardTripletLoss",
    "CentreLoss",
    "SemiHardTripletLoss",
    "TripletCentreLoss",
    "TwoHead",
    "TwoHeadLoss",
    "TwoHeadOutput",
]
