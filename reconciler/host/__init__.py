"""What the product needs of the operating system that it runs on; knows no other package.

run.py        run a program of the system
node.py       facts of the machine, as labels
boot.py       the id of the current boot
children.py   command lines and environment variables of child processes
durable.py    files that survive a power cut
looks.py      blocking calls beside the event loop, with a deadline
"""
