"""Installs the daemon as a system service.

    job.py       command, user and environment of the service
    launchd.py   macOS
    systemd.py   Linux

Calls of the system's programs are passed in as a function, so that the service of either system is
tested on any machine.
"""
