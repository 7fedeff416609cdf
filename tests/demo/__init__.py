"""`scripts/demo-model`: a real small model, on this machine, through the real `sandbox chat`. Nothing here is a test.

`weights` gets the model, `engine` runs `serve` in an environment of its own, `tasks` says what is asked.
"""
