"""Figures with parameters, for explorers: each file has functions that give a figure and its alt text."""
