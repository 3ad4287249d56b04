"""Load in an open loop: requests arrive when their time has come, however slow the answers are.

plan.py         what is asked, and when
locustfile.py   asks it, in a process of its own, as locust changes Python's sockets
run.py          `python -m loadtests.locust.run`: servers, runs and the report
figures.py      what the rows of a run come to
report.py       the same as tables and plots, PNG and HTML
"""
