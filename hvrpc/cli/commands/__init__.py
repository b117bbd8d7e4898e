"""The commands, a module for each, named like it; each has a click command or group `command`.

A module is imported when its command is used: what only one command needs costs the others nothing.
"""
