"""Many weights through many quantizers, on all devices of all processes, resumable; results are the same to the bit.

``measure`` gives the error statistics of one population under several quantizers, ``sweep`` the rows of a grid.
"""

from quantsim.sweep.chunks import array_keys, population_key
from quantsim.sweep.run import measure, predicted_sqnr_db, sweep

__all__ = ["array_keys", "measure", "population_key", "predicted_sqnr_db", "sweep"]
