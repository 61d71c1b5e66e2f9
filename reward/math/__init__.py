"""Decide whether a response states an answer that equals the ground truth.

Read in this order: `extract` (find the answer), `notation` (one spelling), `quantity` (numbers and
units), `structure` (lists, sets, intervals), `closed_form` (exact sums), `equality` (all rules),
`symbolic` (what remains), `pool` and `worker` (the processes for it).
"""
