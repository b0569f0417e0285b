"""``python -m quantsim``."""

from quantsim.cli import main

main()
