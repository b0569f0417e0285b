"""GGUF's lattice formats, IQ1, IQ2 and IQ3: groups of codes that are points of a grid."""

from functools import partial

from quantsim.quantizer.blockformats.base import BlockFormat
from quantsim.quantizer.blockformats.lattices.points import Lattice
from quantsim.quantizer.blockformats.lattices.scales import Trials
from quantsim.quantizer.blockformats.lattices.three_bits import IQ3S, IQ3XXS
from quantsim.quantizer.blockformats.superblocks import SUPER

_XXS3 = IQ3XXS(
    Trials(Lattice("iq3_xxs", 2), 15, 0.2, "points"),
    size=32,
    even=True,
    power=2.0,
    tiny=1e-8,
    fudge=1.0125,
    unit=0.5,
)
_S3 = IQ3S(
    Trials(Lattice("iq3_s", 3), 9, 0.2, "sub-block"),
    size=32,
    even=False,
    power=2.0,
    tiny=0.0,
    fudge=1.033,
    unit=2.0,
)
_lattice = partial(BlockFormat, size=SUPER, takes_imatrix=True)
LATTICES = (
    _lattice(name="iq3_xxs", nbytes=98, coding=_XXS3, ends=(15, 13, 12, 14)),
    _lattice(name="iq3_s", nbytes=110, coding=_S3, ends=(15, 13, 12, 14)),
)
