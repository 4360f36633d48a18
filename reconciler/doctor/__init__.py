"""What is well and what is not on a machine: facts are gathered, and judged without looking.

findings.py   what is judged, from facts that are handed in
facts.py      the facts of macOS and Linux, from programs that are handed in
"""
