"""`forethought export`: data sets out of what the server and the bench recorded.

traces.py, stored.py   what servers recorded, as questions with replies
pools.py               what the bench did
verdicts.py            which replies are right, and by what
contamination.py       which questions are in somebody's test
kinds.py, steps.py     questions to rows
pipeline.py            the line from one to the other, and its report
"""
