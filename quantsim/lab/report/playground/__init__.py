"""What a reader of the report plays with: the 16×32 matrix in every format, and the predictions of theory, live.

``data.data`` gives what the scripts read. The scripts run in the order of their names, and each hangs one object on
``window.quantsim``; ``markup.html.j2`` takes the strings ``w`` and ``playground_data``.
"""
