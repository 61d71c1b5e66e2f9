"""Decide whether a program in a response passes its tests, without trusting the program.

Read in this order: `code_answer` (find the program and compare outputs), `call_solution` (call a
function), `sandbox` (run one program), `keeper` (the process around it), `confine` (take its
rights), `seccomp` (filter its system calls).
"""
