"""The table of scaling laws. A law is a file beside this one and a row here."""

from __future__ import annotations

from scalesweep.scaling.laws.bounded import BOUNDED, BOUNDED_IN_ONE
from scalesweep.scaling.laws.hoffmann import HOFFMANN
from scalesweep.scaling.laws.law import Law, Parameter
from scalesweep.scaling.laws.multiplicative import MULTIPLICATIVE
from scalesweep.scaling.laws.rectified import RECTIFIED
from scalesweep.scaling.laws.saturating import POWER, SATURATING

LAWS: dict[str, tuple[Law, ...]] = {
    "hoffmann": (HOFFMANN,),
    "multiplicative": (MULTIPLICATIVE,),
    "rectified": (RECTIFIED,),
    "saturating": (SATURATING,),
    "power": (POWER,),
    "bounded": (BOUNDED, BOUNDED_IN_ONE),
}
"""The forms of each law by name: that for two axes and that for one where a law has both."""

__all__ = ["LAWS", "Law", "Parameter"]
