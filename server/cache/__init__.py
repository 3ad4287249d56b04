"""The result cache: an answer that was given before, or is being made, is not made again.

fingerprint.py   what answers hang on that no request says
key.py           what makes two requests the same
outcome.py       an outcome that the cache had a part in, and how it is kept
shelf.py         one key's place in the store: the outcome, who makes it, who waits for it
flights.py       what is being made in this process
sharing.py       the line from a request to an outcome: find, wait, or make
terms.py         whether, and for how long, a request's answer is shared
"""
