"""What only Windows has: registered services, VM names, privileges.

Reading order: `registry` (the store), `registration` (services in it), `powershell` (how Windows is
asked), `virtual_machines` (names and ids), `guest` (what a guest knows of itself; Linux guests, too),
`privileges`. Everything can be imported everywhere; what needs Windows says so when it is used.
"""
