"""Convert request bodies into prompts in a separate process.

The time to parse a large body, render a chat template and tokenize the text depends on the client
and the checkpoint, and much of it is C code that holds the GIL. In the worker's own process it
would block generation and the answer to `/pulse`. So each worker has a child process without MLX,
as vLLM separates its API server from its engine.

`pool.Preprocessor` is the worker's side, `__main__` the child's, and `messages` their protocol. The
child processes one request at a time, with limits on time and memory. A request that exceeds them
is killed with its process, and the next request gets a new process.
"""
