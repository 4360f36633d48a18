"""The daemon as a service of the system: what its files say, and how the system is asked.

    job.py       what is run, as whom, with which environment
    launchd.py   macOS
    systemd.py   Linux

What the system's own programs do is handed in as a function, so that either system's service is
tested on any machine.
"""
