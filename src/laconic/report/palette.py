"""The colours of the charts; all are legible on white and on black."""

BEFORE = "#a3adb8"
AFTER = "#2a7f9e"
MISSED = "#c9772d"
LIMIT = "#b5483f"
INK = "#333333"
FAINT = "#8a8a8a"
