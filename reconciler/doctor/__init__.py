"""Checks of a machine: facts are collected first, then judged by pure functions.

findings.py   judgement of given facts
facts.py      facts about macOS and Linux, from commands that are passed in
"""
