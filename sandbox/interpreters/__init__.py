"""Sessions as a loop sees them, wherever they are: each file makes a `loop.interpreter.Interpreter` of one kind.

node      a durable session: executions are recorded, and interrupted by their own id
session   an engine's session in this process
client    a session on a server
"""
