"""Many weights through many quantizers, on all devices of all processes, resumable; results are the same to the bit.

``measure`` gives the error statistics of one population under several quantizers, ``sweep`` the rows of a grid.

    plan       arguments, or a config file, become a checked grid of cells
    streams    which random numbers belong to which array
    programs   what is compiled: drawing arrays, measuring them
    chunks     a cell's arrays, chunk after chunk, through the programs
    totals     sums over arrays, in float64, in the order of the arrays
    parts      the totals of a folder, so that a sweep goes on where it stopped
    hosts      several processes as one
    run        all of it; results makes the rows, estimate says beforehand what it takes
"""

from quantsim.sweep.results import predicted_sqnr_db
from quantsim.sweep.run import measure, sweep
from quantsim.sweep.streams import array_keys, population_key

__all__ = ["array_keys", "measure", "population_key", "predicted_sqnr_db", "sweep"]
