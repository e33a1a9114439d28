"""Knowledge Evolution: train in generations, keep the fit hypothesis, re-draw the rest; cut out a slim net.

Source: A. Taha, A. Shrivastava, L. Davis. Knowledge Evolution in Neural Networks, CVPR 2021; chapter 2.
"""

from helpers.knowledge_evolution.evolution import (
    KnowledgeEvolution,
    SplitError,
    evolve,
    kaiming_uniform,
    multiply_adds,
)

__all__ = ["KnowledgeEvolution", "SplitError", "evolve", "kaiming_uniform", "multiply_adds"]
