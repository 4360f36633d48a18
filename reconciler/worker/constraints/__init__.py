"""Structured output: completions and tool calls that cannot violate a schema or a grammar.

`asked` parses the constraint of a request and checks that it compiles. It runs where the request is
parsed: in the preprocessing process, which a hostile schema may crash. In the worker, `grammar`
adds the output of the model's family around the answer: reasoning, headers, marks of calls.
`matchers` compiles the result for the tokens of the checkpoint. At each step, `mask` forbids the
tokens that the grammar does not allow next.

The engine is llguidance: an Earley parser over lexemes, which computes the mask of 128,000 tokens
in about 0.02 to 0.2 ms without holding the GIL. The first constrained request imports it.
"""
