"""What runs inside a sandbox: init, zygote, kernel, and the frames they speak to the host.

An island: nothing here imports anything else of ours, and the host imports only `frames`.
"""
