"""README's two commands on machines that have nothing but what a stock install has.

`release` makes the bare root of a distribution's release, `machine` lets one live in namespaces of its own on the
host's kernel and network, `visit` is a person who reads README there, types what it says, and does what it is told.
"""
