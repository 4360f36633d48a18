"""Structured output: answers and tool calls that cannot break a schema or a grammar.

`asked` reads what a request asks for and checks that it compiles, where the request is parsed: in
the preprocessing process, which a hostile schema may take down. In the worker, `grammar` adds what
the model's family writes around an answer: reasoning, headers, marks of calls. `matchers` compiles
that for the tokens of the checkpoint. `mask` forbids, at each step, the tokens that the grammar
does not allow next.

The engine is llguidance: an Earley parser over lexemes, which computes the mask of 128,000 tokens
in some 0.02 to 0.2 ms and without Python's lock. It is imported with the first constrained request.
"""
