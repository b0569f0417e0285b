"""One HTML file that holds every study, the ledger and a matrix to play with, in English or Chinese."""
