"""HTTP in, values out; no decisions. One file per family of routes.

A request meets, in this order: `connection` (bytes of a head, bounded in time and size), `guard` (who may ask from
where, the body's bounds, a line in the log), `route` (whose request it is, before a byte of its body is taken), and the
function of its family, which calls the node and turns what comes back into JSON. `start` brings all of it up, and
`server` runs it; `vendors`, which is whatever needs a model, comes when our own routes answer already. `mcp/` is the
same sessions for clients of the Model Context Protocol.
"""
