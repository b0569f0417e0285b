"""GGUF's lattice formats, IQ1, IQ2 and IQ3: groups of codes that are points of a grid."""

from functools import partial

from quantsim.quantizer.blockformats.base import BlockFormat
from quantsim.quantizer.blockformats.lattices.points import Lattice
from quantsim.quantizer.blockformats.lattices.scales import Trials
from quantsim.quantizer.blockformats.lattices.ternary import IQ1M, IQ1S
from quantsim.quantizer.blockformats.lattices.three_bits import IQ3S, IQ3XXS
from quantsim.quantizer.blockformats.lattices.two_bits import IQ2S, IQ2XS, IQ2XXS
from quantsim.quantizer.blockformats.superblocks import SUPER

_XXS2 = IQ2XXS(
    Trials(Lattice("iq2_xxs", 2), 6, 0.1, "all"),
    size=32,
    even=True,
    power=1.0,
    tiny=1e-15,
    fudge=1.0,
    unit=0.25,
)
_XS2 = IQ2XS(
    Trials(Lattice("iq2_xs", 2), 9, 0.1, "points"),
    size=16,
    even=True,
    power=1.0,
    tiny=1e-15,
    fudge=1.0,
    unit=0.25,
)
_S2 = IQ2S(
    Trials(Lattice("iq2_s", 1), 9, 0.1, "points"),
    size=16,
    even=False,
    power=2.0,
    tiny=1e-8,
    fudge=0.9875,
    unit=0.25,
)
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
    tiny=2.0**-126,
    fudge=1.033,
    unit=2.0,
)
_S1 = IQ1S(size=32, shifts=1, tiny=1e-12)
_M1 = IQ1M(size=16, shifts=2, tiny=1e-7)
_lattice = partial(BlockFormat, size=SUPER, takes_imatrix=True)
LATTICES = (
    _lattice(name="iq1_s", nbytes=50, coding=_S1, ends=(0, 1, 1, 2), needs_imatrix=True),
    _lattice(name="iq1_m", nbytes=56, coding=_M1, ends=(0, 1, 1, 2)),
    _lattice(name="iq2_xxs", nbytes=66, coding=_XXS2, ends=(5, 3, 2, 4), needs_imatrix=True),
    _lattice(name="iq2_xs", nbytes=74, coding=_XS2, ends=(5, 3, 2, 4), needs_imatrix=True),
    _lattice(name="iq2_s", nbytes=82, coding=_S2, ends=(5, 3, 2, 4)),
    _lattice(name="iq3_xxs", nbytes=98, coding=_XXS3, ends=(15, 13, 12, 14)),
    _lattice(name="iq3_s", nbytes=110, coding=_S3, ends=(15, 13, 12, 14)),
)
