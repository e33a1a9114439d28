"""The deep-metric-learning reading list: what PyTorch Metric Learning does not have, one file for each paper.

Everything is called as that library calls its own: a loss as ``loss(embeddings, labels)``, or it wraps such a
loss. ``from helpers.reading_list import group_loss`` and then ``group_loss.GroupLoss``.
"""
