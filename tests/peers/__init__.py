"""`scripts/bench-peers`: our server beside other ways to run a model's code, on one machine in one run.

Every peer has a driver in `drivers`, which runs in an environment of its own with the peer really installed, and does
with it what its documentation says: opens a box, runs programs in it, closes it. What a box holds and what is left of
it is measured from outside, alike for all.
"""
