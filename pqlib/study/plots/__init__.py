"""Figures: one function each, one style. ``style.show`` checks, saves and displays them."""
