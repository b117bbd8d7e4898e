"""What `hvrpc doctor` does: look at a machine, judge what was seen, try what can be tried.

Reading order: `findings` (what is told), `machine` (what is looked at), `checks` (what is made of it,
without looking itself), `probe` (whether an address answers), `selftest` and `farside` (the battery).

Looking changes nothing, and opens no AF_VSOCK socket: only an address that the user gives does.
"""
