"""The colours of every chart and contact sheet.

Okabe & Ito 2008, "Color Universal Design": told apart by colour-blind eyes.
"""

from __future__ import annotations

from typing import Final

BLUE: Final = "#0072b2"
ORANGE: Final = "#d55e00"
GREEN: Final = "#009e73"
PURPLE: Final = "#cc79a7"
SKY: Final = "#56b4e9"
AMBER: Final = "#e69f00"
YELLOW: Final = "#f0e442"
GREY: Final = "#888888"
