"""What answers look like: for the OpenAPI document, and for tests that hold answers to it.

Answers are written as dictionaries, which costs less than models. A field that is written and is
not here, or the other way round, is found by `python -m loadtests.conformance`.

base.py      errors, and what all answers are made of
chat.py      chat completions, text completions, dry runs
judging.py   verification, reranking, scoring, replay
listing.py   models, strategies, verifiers, traces, readiness
"""
