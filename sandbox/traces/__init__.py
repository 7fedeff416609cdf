"""What happened in the runs of the model loop, in order: recorded as it happens, kept as a row, exported for others.

A trace's records are JSON objects, each with a `kind` and the time `at` (seconds since the epoch):

    message    `role` and `text` of what the caller sent; `parts` as they were
    turn       the model's: `turn`, `model`, `upstream`, `seconds`, `usage`, `cost`, `finish`, `text`, `calls`, `parts`
    attempt    a try at an upstream: `upstream`, `model`, `outcome`, `seconds`
    execution  `call_id`, `code`, `execution` as in the HTTP API, `told`: what the model was told of it
    wants      `call_id`, `calls` that the program makes of functions of the caller's: `name`, `arguments` as text, cut;
               the first thousand
    unusable   a call that could not be executed: `call_id`, `name`, `arguments`, `told`
    repair     failures in a row that are over: `error_class`, `failures`, `repaired`, `tokens`, `seconds`
    end        `why`, `answer`; or `error` and `detail` where we or the upstream failed

Secrets are blotted out before anything is kept. Of very long texts, and of all texts where they are many, beginning and
end are kept.
"""

from sandbox.traces.lines import to_lines
from sandbox.traces.notebook import to_notebook
from sandbox.traces.otlp import to_otlp
from sandbox.traces.recorder import Recorder
from sandbox.traces.secrets import Secrets

__all__ = ["Recorder", "Secrets", "to_lines", "to_notebook", "to_otlp"]
