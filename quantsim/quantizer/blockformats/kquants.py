"""GGUF's K-quants: super-blocks of 256 weights; the scales (and minimums) of their sub-blocks are quantized again.

=====  =========  ====  ==================  ==================================  ==================
name   sub-block  code  scale, minimum      search                              weight of an error
=====  =========  ====  ==================  ==================================  ==================
q2_k   16         2     4 bits, 4 bits      scale and minimum, absolute errors  abs(w)
q3_k   16         3     6 bits signed       scale, codes refined five times     w^2
q4_k   32         4     6 bits, 6 bits      scale and minimum                   rms + abs(w)
q5_k   32         5     6 bits, 6 bits      scale and minimum                   rms + abs(w)
q6_k   16         6     8 bits signed       scale                               w^2
=====  =========  ====  ==================  ==================================  ==================

One float16 scale (and one float16 minimum) for a super-block. After the search the codes are made anew with the scales
as stored, except where a stored scale is 0. With importances the searches are finer and the scales are searched too.
Source: llama.cpp, ggml-quants.c, functions ``quantize_row_q*_K_ref`` and ``quantize_row_q*_K_impl``.
"""

from functools import partial

from quantsim.quantizer.blockformats.base import BlockFormat
from quantsim.quantizer.blockformats.kquants_affine import Q2K, Q45K
from quantsim.quantizer.blockformats.kquants_signed import Q3K, Q6K
from quantsim.quantizer.blockformats.search import Grid
from quantsim.quantizer.blockformats.superblocks import SUPER

_kquant = partial(BlockFormat, size=SUPER, takes_imatrix=True)
KQUANTS = (
    _kquant(name="q2_k", nbytes=84, coding=Q2K(), ends=(0, 1, 2, 3)),
    _kquant(name="q3_k", nbytes=110, coding=Q3K(), ends=(0, 1, 6, 7)),
    _kquant(name="q4_k", nbytes=144, coding=Q45K(4, Grid(15, -1.0, 0.1, 20)), ends=(0, 1, 14, 15)),
    _kquant(name="q5_k", nbytes=176, coding=Q45K(5, Grid(31, -0.5, 0.1, 15)), ends=(0, 1, 30, 31)),
    _kquant(name="q6_k", nbytes=210, coding=Q6K(), ends=(0, 1, 62, 63)),
)
