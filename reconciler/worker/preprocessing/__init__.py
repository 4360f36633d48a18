"""Turn the bodies of requests into prompts in a process of its own.

Parsing a large body, rendering a chat template and tokenizing take as long as a client or a
checkpoint makes them take, and much of it is C code that holds Python's lock. In the worker's own
process that would stop the thread that generates and the one that answers `/pulse`. So each worker
has a child process without MLX, as vLLM separates its API server from its engine.

`pool.Preprocessor` is the worker's side, `__main__` the child's; `messages` is what they send each
other. The child does one request at a time, in bounded time and memory: one that takes too much is
killed with its process, and the next one gets a new process.
"""
