"""A model, a tool, and turns until an answer.

messages        what a loop and a model say to each other, in no vendor's words
openai_chat     ⎫ the same on the wire: values to JSON and back, no I/O, so that the one code serves
anthropic_…     ⎭ both sides, upstreams that we call and programs that call us
upstream/       one model's server: one address, one key, one try
catalogue       which upstreams and models there are, and what a model's name means
models          which upstream is asked, and what to do when one fails: gate, breaker, routes, cache, shadow, prices
interpreter     what a loop needs of a session
tool            `run_python` as a model sees it
fence           the same for models without tool calls
told, hints     what a model is told of an execution, and what a good colleague would add
loop            turns; budget bounds them, events are what happens, repairs counts what failures cost
"""
