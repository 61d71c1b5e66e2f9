"""Grade responses: is the answer, or the program, correct, and what score does it earn?

Read in this order: `sources` (data sources and settings), `grader` (from a row to a verdict),
`score` (the function that verl calls), `grade` (the command). `math` grades answers and `code`
grades programs.
"""
