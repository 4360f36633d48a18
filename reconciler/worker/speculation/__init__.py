"""Speculative decoding: several tokens of a request are guessed and checked in one forward pass.

A forward pass over a few tokens takes little longer than one over a single token where reading the
weights takes the time. So a request that runs alone in its session is given drafts of its next
tokens (`lookup`). One pass computes the model's own choice after each of them (`verify`), and the
drafts that equal these choices are accepted. `pace` decides from measured acceptance and measured
times how many tokens to draft, and whether to draft at all. `generator` puts these together.
"""
