"""Dataset page with statistics, figures and checks for leakage."""
