"""The experiment layer: arms, rates and seeds in, one tidy table out; cached, side by side, comparable."""
