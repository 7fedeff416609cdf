"""MCP: our sessions as tools, for clients that speak the Model Context Protocol, over HTTP (`/mcp`) and stdio.

tools        what a client is shown
calls        what the tools do
results      what it is told
desk         which session a call is about
workbench    what the tools need of a session
recorded     ⎫
local        ⎬ the same in a node, in this process, on a server
remote       ⎭
protocol     the SDK's server with all of it
endpoint     `/mcp`; `owners` is what of it needs the SDK

The SDK is an extra (`sandbox-engine[mcp]`), and slow to import: `endpoint` alone can do without.
"""
