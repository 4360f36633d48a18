"""Access to the operating system; imports no other package of the product.

run.py        programs of the operating system
node.py       facts of the machine, as labels
boot.py       the id of the current boot
children.py   command lines and environment variables of child processes
durable.py    files that survive a power cut
looks.py      blocking calls in threads, with a deadline
"""
