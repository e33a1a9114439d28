"""L2-CAF: where any network looks, by a filter of unit length on its last map of features.

Source: A. Taha, X. Yang, A. Shrivastava, L. Davis. A Generic Visualization Approach for Convolutional Neural
Networks, ECCV 2020; chapter 4 of the thesis. The exact solver is in `closed_form`.
"""

from helpers.l2_caf.attention import L2CAF
from helpers.l2_caf.filters import Attention
from helpers.l2_caf.promises import promises

__all__ = ["L2CAF", "Attention", "promises"]
